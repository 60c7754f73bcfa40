"""Answers whose streams break go on where they stopped, and the caller sees one answer."""

import time

import grpc
import pytest

from clients import errors
from clients.completion import Gatherer
from clients.resumption import MOST_STREAMS, Resumption
from clients.sdk import Event, Request, RetryPolicy, Sampling, Tokens
from protos.sluice.v1 import sluice_pb2 as pb
from tests.clients.asking import ask, events_of
from tests.clients.fake_sluice import Failure, FakeSluice, echo

Code = grpc.StatusCode
TEXT = echo("x")


def broken(*after: int) -> list[Failure]:
    """Streams that end with UNAVAILABLE after so many events each."""
    return [Failure(Code.UNAVAILABLE, after_events=count) for count in after]


def told(events: list[Event]) -> tuple[str, list[int]]:
    tokens = [event for event in events if isinstance(event, Tokens)]
    return "".join(t.text for t in tokens), [id for t in tokens for id in t.ids]


@pytest.mark.parametrize("after", [(1,), (2,), (3,), (4,), (2, 3), (1, 1, 2), (2, 3, 3, 3, 3)])
def test_the_caller_sees_one_answer(after: tuple[int, ...]) -> None:
    fake = FakeSluice(failures=broken(*after))
    request = Request("x", sampling=Sampling(seed=7), request_id="mine")
    events = ask(fake, lambda c: events_of(c, request))
    assert told(events) == (TEXT, [ord(letter) for letter in TEXT])
    assert [type(event).__name__ for event in events].count("Accepted") == 1
    gatherer = Gatherer(1, time.monotonic())
    for event in events:
        gatherer.add(event, time.monotonic())
    completion = gatherer.completion()
    resumed = len(fake.requests[-1].resumed.ids)
    assert completion.usage.resumed_tokens == resumed
    assert completion.usage.completion_tokens == len(TEXT)
    ids = [request.request_id for request in fake.requests]
    assert ids == ["mine", *(f"mine~{number}" for number in range(2, len(ids) + 1))]


def test_what_goes_on_is_asked_with_the_seed_and_tokens_of_the_broken_stream() -> None:
    class Seeded(FakeSluice):
        def _events(self, request: pb.GenerateRequest):  # type: ignore[no-untyped-def]
            for event in super()._events(request):
                if event.HasField("accepted"):
                    event.accepted.seed = request.sampling.seed or 99
                    event.accepted.max_tokens = request.stopping.max_tokens or 50
                yield event

    fake = Seeded(failures=broken(2))
    assert ask(fake, lambda c: c.complete("x")).text == TEXT
    first, second = fake.requests
    assert not first.HasField("resumed")
    assert not first.sampling.HasField("seed")
    assert (second.sampling.seed, second.stopping.max_tokens) == (99, 50)
    half = len(TEXT) // 2
    assert list(second.resumed.ids) == [ord(letter) for letter in TEXT[:half]]


def test_several_outputs_start_over_or_end() -> None:
    request = Request("x", sampling=Sampling(n=2))
    fake = FakeSluice(failures=broken(3))
    assert [o.text for o in ask(fake, lambda c: c.complete(request)).outputs] == [TEXT, TEXT]
    assert fake.requests[0] == fake.requests[1]
    with pytest.raises(errors.Unavailable):
        ask(FakeSluice(failures=broken(3)), lambda c: events_of(c, request))


def test_other_errors_end_the_answer() -> None:
    fake = FakeSluice(failures=[Failure(Code.INTERNAL, after_events=2)])
    with pytest.raises(errors.ServerFault):
        ask(fake, lambda c: c.complete("x"))
    assert len(fake.requests) == 1


def test_an_answer_that_ends_its_server_again_and_again_is_given_up() -> None:
    fake = FakeSluice(
        answer=lambda _: "y" * 10_000, fail=lambda r: broken(3 if r.resumed.ids else 2)[0]
    )
    with pytest.raises(errors.Unavailable):
        ask(fake, lambda c: c.complete("x"))
    assert len(fake.requests) == MOST_STREAMS


def test_calls_that_no_server_takes_up_are_the_retry_policys_business() -> None:
    """An engine that takes long to come back is waited for as long as the policy says."""
    refused = [Failure(Code.UNAVAILABLE)] * (2 * MOST_STREAMS)
    fake = FakeSluice(failures=[*broken(2), *refused])
    patient = RetryPolicy(attempts=3 * MOST_STREAMS, initial_seconds=0.001, maximum_seconds=0.002)
    assert ask(fake, lambda c: c.complete("x"), patient).text == TEXT
    assert len(fake.requests) == 2 + 2 * MOST_STREAMS


def test_a_server_that_never_gets_further_is_given_up_sooner() -> None:
    fake = FakeSluice(fail=lambda _: broken(1)[0])
    with pytest.raises(errors.Unavailable):
        ask(fake, lambda c: c.complete("x"))
    assert len(fake.requests) == 3  # attempts of the tests' retry policy


def begun() -> Resumption:
    """A request that has two tokens, and whose stream broke."""
    found = Resumption(pb.GenerateRequest(text="x"))
    assert found.request() == pb.GenerateRequest(text="x")
    found.take(pb.Accepted(prompt_tokens=1, max_tokens=9, kv_budget=96, policy="r_kv"))
    found.take(pb.Tokens(ids=[1, 2], text="ab"))
    assert list(found.request().resumed.ids) == [1, 2]
    return found


def test_text_that_was_held_back_is_shown_once() -> None:
    again = begun()
    accepted = pb.Accepted(prompt_tokens=1, max_tokens=9, kv_budget=96, policy="r_kv")
    assert again.take(accepted) is None
    assert again.take(pb.Tokens(text="abc")) == pb.Tokens(text="c")
    assert again.take(pb.Tokens(ids=[4], text="d")) == pb.Tokens(ids=[4], text="d")
    assert list(again.request().resumed.ids) == [1, 2, 4]
    assert again.take(accepted) is None
    assert again.take(pb.Tokens(text="abcd")) is None


@pytest.mark.parametrize(
    ("accepted", "message"),
    [
        ({"prompt_tokens": 2}, "has prompt_tokens 2 where 1 was granted"),
        ({"kv_budget": 48}, "has kv_budget 48 where 96 was granted"),
        ({"policy": "window"}, "has policy window where r_kv was granted"),
    ],
)
def test_another_server_than_before(accepted: dict[str, object], message: str) -> None:
    known = {"prompt_tokens": 1, "max_tokens": 9, "kv_budget": 96, "policy": "r_kv"}
    with pytest.raises(errors.BrokenStream, match=message):
        begun().take(pb.Accepted(**{**known, **accepted}))  # type: ignore[arg-type]


def test_another_tokenizer_than_before() -> None:
    with pytest.raises(errors.BrokenStream, match="as other text"):
        begun().take(pb.Tokens(text="xy"))


def test_a_long_id_stays_within_the_limit() -> None:
    found = Resumption(pb.GenerateRequest(text="x", request_id="a" * 128))
    found.take(pb.Accepted())
    assert len(found.request().request_id) == 128
    assert found.request().request_id.endswith("~3")
