"""Calls that do not go well: typed errors, retries, deadlines, cancellation."""

import asyncio
import threading
import time
from contextlib import aclosing

import grpc
import pytest

from clients import errors
from clients.async_client import AsyncClient
from clients.sdk import NEVER, Accepted, Request
from tests.clients.asking import QUICK, ask, events_of
from tests.clients.fake_sluice import Failure, FakeSluice, echo, serving

Code = grpc.StatusCode


# Errors


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.INVALID_ARGUMENT, errors.InvalidRequest),
        (Code.OUT_OF_RANGE, errors.InvalidRequest),
        (Code.NOT_FOUND, errors.NotFound),
        (Code.ALREADY_EXISTS, errors.AlreadyExists),
        (Code.UNAUTHENTICATED, errors.AccessDenied),
        (Code.PERMISSION_DENIED, errors.AccessDenied),
        (Code.RESOURCE_EXHAUSTED, errors.Overloaded),
        (Code.UNAVAILABLE, errors.Unavailable),
        (Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (Code.ABORTED, errors.Aborted),
        (Code.INTERNAL, errors.ServerFault),
        (Code.UNKNOWN, errors.ServerFault),
        (Code.UNIMPLEMENTED, errors.ServerFault),
    ],
)
def test_every_status_has_its_error(code: grpc.StatusCode, kind: type[errors.CallError]) -> None:
    fake = FakeSluice(failures=[Failure(code)])
    with pytest.raises(kind) as caught:
        ask(fake, lambda c: c.complete(Request("x")), retry=NEVER)
    assert type(caught.value) is kind
    assert caught.value.code is code
    assert "as the script says" in str(caught.value)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    tree = errors.__doc__ or ""
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and kind.__module__ == errors.__name__:
            assert issubclass(kind, errors.SluiceError) == (name != "Violation")
            assert (name in tree) == (name != "Violation")


def test_refused_fields_are_named() -> None:
    fake = FakeSluice(
        failures=[Failure(Code.INVALID_ARGUMENT, "got 3, want at least 53", "kv_budget.max_tokens")]
    )
    with pytest.raises(errors.InvalidRequest) as caught:
        ask(fake, lambda c: c.complete(Request("x")))
    violation = errors.Violation("kv_budget.max_tokens", "got 3, want at least 53")
    assert caught.value.violations == (violation,)
    assert len(fake.requests) == 1


# Retries


def test_a_call_that_did_not_start_is_repeated_as_it_was() -> None:
    fake = FakeSluice(failures=[Failure(Code.UNAVAILABLE)])
    assert len(ask(fake, lambda c: events_of(c, Request("x")))) == 5
    assert fake.requests[0] == fake.requests[1]


def test_retries_end() -> None:
    fake = FakeSluice(fail=lambda _: Failure(Code.UNAVAILABLE))
    with pytest.raises(errors.Unavailable):
        ask(fake, lambda c: c.complete(Request("x")))
    assert len(fake.requests) == QUICK.attempts


def test_retry_info_is_honoured() -> None:
    fake = FakeSluice(failures=[Failure(Code.RESOURCE_EXHAUSTED, retry_after=0.3)])
    before = time.monotonic()
    assert ask(fake, lambda c: c.complete(Request("x"))).text == echo("x")
    assert time.monotonic() - before >= 0.3


def test_a_full_queue_without_retry_info_is_not_retried() -> None:
    fake = FakeSluice(failures=[Failure(Code.RESOURCE_EXHAUSTED)])
    with pytest.raises(errors.Overloaded):
        ask(fake, lambda c: c.complete(Request("x")))
    assert len(fake.requests) == 1


def test_no_retry_past_the_time_out() -> None:
    fake = FakeSluice(failures=[Failure(Code.RESOURCE_EXHAUSTED, retry_after=60)])
    with pytest.raises(errors.Overloaded):
        ask(fake, lambda c: c.complete(Request("x"), timeout=5))


# Deadlines, cancellation, health


def test_the_time_out_is_a_deadline() -> None:
    fake = FakeSluice(hold=threading.Event())
    with pytest.raises(errors.DeadlineExceeded):
        ask(fake, lambda c: c.complete(Request("x"), timeout=0.3))
    assert fake.hung_up.wait(30)


def test_leaving_a_stream_cancels_the_request() -> None:
    fake = FakeSluice(hold=threading.Event())

    async def leave(client: AsyncClient) -> None:
        async with aclosing(client.generate(Request("x"))) as events:
            async for event in events:
                assert isinstance(event, Accepted)
                break

    ask(fake, leave)
    assert fake.hung_up.wait(30)


def test_cancelling_the_task_cancels_the_request() -> None:
    fake = FakeSluice(hold=threading.Event())

    async def cancel(client: AsyncClient) -> None:
        task = asyncio.create_task(client.complete(Request("x")))
        while not fake.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not fake.hung_up.is_set():
            await asyncio.sleep(0.01)

    ask(fake, cancel)


def test_health_wait() -> None:
    async def wait(target: str, timeout: float) -> None:
        async with AsyncClient(target) as client:
            await client.wait_until_serving(timeout)

    with serving(FakeSluice()) as target:
        asyncio.run(wait(target, 20))
    with (
        serving(FakeSluice(), healthy=False) as target,
        pytest.raises(errors.NotServing, match="last seen: NOT_SERVING"),
    ):
        asyncio.run(wait(target, 0.5))
