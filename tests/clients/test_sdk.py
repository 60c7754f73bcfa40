"""The SDK against a scripted server: what is sent, and what comes of an answer."""

import threading
import time

import grpc
import pytest

from clients import errors, sdk
from clients.sdk import (
    Accepted,
    Chat,
    Client,
    Finished,
    Gatherer,
    KvBudget,
    Progress,
    Request,
    Sampling,
    Stopping,
    Timing,
    TokenIds,
    Tokens,
)
from protos.sluice.v1 import sluice_pb2 as pb
from tests.clients.asking import QUICK, ask, events_of
from tests.clients.fake_sluice import Failure, FakeSluice, echo, serving

Code = grpc.StatusCode


# Requests


def test_what_is_not_set_is_not_sent() -> None:
    message = Request("hi").to_proto()
    assert message == pb.GenerateRequest(
        text="hi", sampling=pb.Sampling(), stopping=pb.Stopping(), kv_budget=pb.KvBudget()
    )
    assert not message.sampling.HasField("temperature")


def test_zero_is_a_value() -> None:
    request = Request("hi", sampling=Sampling(temperature=0.0), kv_budget=KvBudget(max_tokens=0))
    message = request.to_proto()
    assert message.sampling.HasField("temperature")
    assert message.kv_budget.HasField("max_tokens")


def test_every_setting_reaches_the_wire() -> None:
    message = Request(
        Chat.user("hi"),
        kv_budget=KvBudget(96, "h2o", {"alpha": 0.5}, 12, 2, 16, True, 96),
        sampling=Sampling(0.6, 0.95, 20, 0.1, 1.1, 7, 2, 3),
        stopping=Stopping(100, ("END",), (5, 6), True),
        model="m",
        request_id="r",
        priority=-1,
        stream_interval=32,
        cache_salt="s",
    ).to_proto()
    assert message.chat.messages[0] == pb.ChatMessage(role="user", content="hi")
    for part in (message, message.kv_budget, message.sampling, message.stopping):
        unset = {field.name for field in part.DESCRIPTOR.fields} - {
            field.name for field, _ in part.ListFields()
        }
        assert unset <= {"text", "token_ids", "resumed"}  # the last is the SDK's own business


def test_settings_may_be_keywords_of_the_call() -> None:
    fake = FakeSluice()
    budget, seed = KvBudget(max_tokens=20), Sampling(seed=1)
    ask(fake, lambda c: c.complete("x", kv_budget=budget))
    ask(fake, lambda c: c.complete(Request("x", kv_budget=budget, sampling=seed)))
    ask(fake, lambda c: c.complete(Request("x", sampling=seed), kv_budget=budget))
    assert fake.requests[0].kv_budget.max_tokens == 20
    assert fake.requests[1] == fake.requests[2]


def test_token_ids_are_sent_as_they_are() -> None:
    assert list(Request(TokenIds((1, 2))).to_proto().token_ids.ids) == [1, 2]


# Answers


def test_generate_yields_the_events_in_order() -> None:
    events = ask(FakeSluice(), lambda c: events_of(c, Request("abc")))
    assert [type(event) for event in events] == [Accepted, Tokens, Tokens, Progress, Finished]
    assert "".join(e.text for e in events if isinstance(e, Tokens)) == echo("abc")


def test_complete_gathers_text_ids_usage_and_timing() -> None:
    before = time.monotonic()
    request = Request("abc", kv_budget=KvBudget(max_tokens=20), request_id="mine")
    completion = ask(FakeSluice(), lambda c: c.complete(request))
    output = completion.output
    assert completion.request_id == "mine"
    assert completion.text == echo("abc")
    assert output.token_ids == tuple(map(ord, echo("abc")))
    assert output.finish_reason == "stop"
    assert output.stop is None
    assert output.usage.kv_tokens_peak == 20
    assert output.usage.kv_tokens_evicted == 3 + len(echo("abc")) - 20
    timing = output.timing
    assert timing.first_token is not None
    assert before <= timing.sent <= timing.accepted <= timing.first_token <= timing.end


def test_every_output_has_its_own_times() -> None:
    gatherer = Gatherer(2, sent=1.0)
    gatherer.add(Accepted(), 2.0)
    for index, at in [(1, 3.0), (0, 4.0), (1, 5.0), (0, 6.0)]:
        gatherer.add(Tokens(output_index=index, ids=[7], text="a"), at)
    gatherer.add(Finished(output_index=1), 7.0)
    gatherer.add(Progress(), 7.5)
    gatherer.add(Finished(output_index=0), 8.0)
    first, second = gatherer.completion().outputs
    assert first.timing == Timing(sent=1.0, accepted=2.0, first_token=4.0, end=8.0)
    assert second.timing == Timing(sent=1.0, accepted=2.0, first_token=3.0, end=7.0)
    assert first.token_ids == second.token_ids == (7, 7)


def test_complete_returns_every_output() -> None:
    completion = ask(FakeSluice(), lambda c: c.complete(Request("x", sampling=Sampling(n=3))))
    assert [output.index for output in completion.outputs] == [0, 1, 2]
    assert {output.text for output in completion.outputs} == {echo("x")}


def test_a_stream_without_its_end_is_a_broken_stream() -> None:
    fake = FakeSluice()
    fake._finished = lambda *_: pb.Finished(output_index=9)  # type: ignore[method-assign]
    with pytest.raises(errors.BrokenStream, match="output_index 9"):
        ask(fake, lambda c: c.complete(Request("x")))


def test_control_calls() -> None:
    fake = FakeSluice()
    assert ask(fake, lambda c: c.model_info()).name == "script"
    assert ask(fake, lambda c: c.server_info()).max_running == 8
    assert ask(fake, lambda c: c.load()).running == 0
    assert ask(fake, lambda c: c.abort("r")) == 1
    assert ask(fake, lambda c: c.abort()) == 1
    assert fake.aborted == [pb.AbortRequest(request_id="r"), pb.AbortRequest(all=True)]
    with pytest.raises(errors.NotFound, match="no such model"):
        ask(fake, lambda c: c.model_info("another"))


# The blocking client


def test_the_blocking_client_does_the_same() -> None:
    fake = FakeSluice(failures=[Failure(Code.UNAVAILABLE)])
    with serving(fake) as target, Client(target, retry=QUICK) as client:
        client.wait_until_serving(20)
        answer = client.complete("x", kv_budget=KvBudget(max_tokens=20))
        assert (answer.text, answer.usage.kv_tokens_peak) == (echo("x"), 20)
        events = list(client.generate(Request("x")))
        assert isinstance(events[0], Accepted)
        assert isinstance(events[-1], Finished)
        assert client.model_info().name == "script"
        assert client.server_info().version == "0.1.0"
        assert client.load().running == 0
        assert client.abort("r") == 1
        fake.failures = [Failure(Code.INTERNAL)]
        with pytest.raises(errors.ServerFault):
            client.complete(Request("x"))


def test_leaving_a_blocking_stream_cancels_the_request() -> None:
    fake = FakeSluice(hold=threading.Event())
    with serving(fake) as target, Client(target) as client:
        events = client.generate(Request("x"))
        assert isinstance(next(events), Accepted)
        events.close()
        assert fake.hung_up.wait(30)


def test_everything_public_is_there_and_documented() -> None:
    assert sorted(sdk.__all__, key=str) == sorted(set(sdk.__all__))
    for name in sdk.__all__:
        assert hasattr(sdk, name)
