"""The line of a request: what it says, and that no text of a prompt or answer is in the log."""

import asyncio
import json
import logging
import signal
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from engine.logs import JsonFormatter
from protos.sluice.v1 import sluice_pb2 as pb
from protos.sluice.v1 import sluice_pb2_grpc
from tests.service.harness import Harness, config, ids_request
from tests.service.test_serve import served

SECRET = "the pass phrase is velvet"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The requests' lines so far, as the JSON of the log has them."""
    records = [record for record in caplog.records if record.name == "service.request_log"]
    return [json.loads(JsonFormatter().format(record)) for record in records]


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_whole_answer(fast: Harness, caplog: pytest.LogCaptureFixture) -> None:
    request = ids_request([1, 2, 3], 200)
    request.request_id = "mine"
    request.sampling.n = 2
    request.kv_budget.max_tokens = 64
    answer = fast.run(fast.answer(request))
    (line,) = lines(caplog)
    usages = [answer.finished[output].usage for output in (0, 1)]
    assert line["message"] == "request"
    assert line["level"] == "info"
    assert (line["request_id"], line["model"], line["code"]) == ("mine", "fake", "OK")
    assert line["finish_reasons"] == ["length", "length"]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 400)
    assert (line["kv_budget"], line["kv_floor"], line["policy"]) == (64, 64, "r_kv")
    assert line["kv_tokens_peak"] == max(usage.kv_tokens_peak for usage in usages) <= 64
    assert line["kv_tokens_evicted"] == sum(usage.kv_tokens_evicted for usage in usages) > 0
    assert 0 < line["decode_seconds"] <= line["seconds"]
    assert "error" not in line


def test_a_refused_request_names_its_fields_and_no_values(
    fast: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    request = pb.GenerateRequest(text=SECRET)
    request.sampling.temperature = -1
    request.kv_budget.policy_settings[SECRET] = 1.0
    fast.run(fast.refusal(request))
    (line,) = lines(caplog)
    assert (line["code"], line["error"]) == ("INVALID_ARGUMENT", "InvalidRequest")
    assert line["fields"] == ["sampling.temperature", "kv_budget.policy_settings"]
    assert "request_id" not in line
    assert "velvet" not in caplog.text + json.dumps(lines(caplog))


def test_a_caller_that_hangs_up(slow: Harness, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        call = slow.inference.Generate(ids_request([1, 2], 1000))
        while not (await call.read()).HasField("tokens"):
            pass
        call.cancel()
        for _ in range(500):
            if lines(caplog):
                return
            await asyncio.sleep(0.01)

    slow.run(scenario())
    (line,) = lines(caplog)
    assert (line["code"], line["error"]) == ("CANCELLED", "CancelledError")
    assert line["completion_tokens"] >= 1
    assert line["finish_reasons"] == []


def test_an_error_of_ours_stands_out(
    fast: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("odd")

    monkeypatch.setattr("service.servicer.make_submit", broken)
    error = fast.run(fast.refusal(ids_request([1], 5)))
    assert error.code() == grpc.StatusCode.INTERNAL
    (line,) = lines(caplog)
    assert (line["code"], line["level"], line["error"]) == ("INTERNAL", "error", "KeyError")


def test_prompts_are_written_only_where_an_operator_asks(
    launch: Callable[..., Harness], fast: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    request = pb.GenerateRequest(text=SECRET, stopping=pb.Stopping(max_tokens=3))
    fast.run(fast.answer(request))
    assert "velvet" not in json.dumps(lines(caplog))
    harness = launch(config(log_prompts=True))
    harness.run(harness.answer(request))
    turns = pb.Chat(messages=[pb.ChatMessage(role="user", content=SECRET)])
    harness.run(harness.answer(pb.GenerateRequest(chat=turns, stopping=request.stopping)))
    harness.run(harness.answer(ids_request([1, 2], 3)))
    prompts = [line["prompt"] for line in lines(caplog)[1:]]
    assert prompts == [SECRET, [{"role": "user", "content": SECRET}], [1, 2]]


def test_the_whole_log_of_a_server_holds_no_text() -> None:
    """Both processes, at the level that says most, in JSON from the first line to the last."""
    options = ("--model", "fake", "--log-format", "json", "--log-level", "debug")
    with served(*options) as (process, address):
        with grpc.insecure_channel(address) as channel:
            stub = sluice_pb2_grpc.InferenceStub(channel)
            request = pb.GenerateRequest(text=SECRET, stopping=pb.Stopping(max_tokens=8))
            text = "".join(event.tokens.text for event in stub.Generate(request))
            wrong = pb.GenerateRequest(text=SECRET, model=SECRET)
            with pytest.raises(grpc.RpcError):
                list(stub.Generate(wrong))
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    entries = [json.loads(line) for line in log.splitlines()]
    codes = [e["code"] for e in entries if e["logger"] == "service.request_log"]
    assert codes == ["OK", "NOT_FOUND"]
    assert "velvet" not in log
    assert text
    assert json.dumps(text)[1:-1] not in log
