"""The token that a client sends, and where it must never be seen."""

import grpc
import pytest

from clients import access
from clients.errors import AccessDenied, DataError
from clients.sdk import NEVER, Client
from tests.clients.fake_sluice import Failure, FakeSluice, serving

TOKEN = "secret-0123456789"


def test_the_token_of_the_call_goes_before_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert access.token_metadata(None) == ()
    monkeypatch.setenv(access.TOKEN, f"{TOKEN}\n")
    assert access.token_metadata(None) == (("authorization", f"Bearer {TOKEN}"),)
    assert access.token_metadata("other") == (("authorization", "Bearer other"),)
    assert access.token_metadata("") == ()


@pytest.mark.parametrize("token", [f"{TOKEN}\nx: y", f"{TOKEN}ü", f"{TOKEN}\x00"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(DataError) as caught:
        access.token_metadata(token)
    assert TOKEN not in str(caught.value)


def test_an_error_does_not_show_the_token(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(access.TOKEN, TOKEN)
    failure = Failure(grpc.StatusCode.UNAUTHENTICATED, "a valid bearer token is needed")
    with serving(FakeSluice(failures=[failure])) as target, Client(target, retry=NEVER) as client:
        with pytest.raises(AccessDenied) as caught:
            client.complete("x")
        shown = f"{caught.value!s} {caught.value!r} {client!r} {vars(caught.value)} {caplog.text}"
    assert TOKEN not in shown
