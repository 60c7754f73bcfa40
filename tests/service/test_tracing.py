"""Spans as a collector of OTLP over gRPC gets them; and one that is away, and one that hangs."""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from protos.sluice.v1 import sluice_pb2 as pb
from service.account import Account
from service.config import ServiceConfig
from service.ports import StartError
from service.server import Server
from service.tracing import Traces
from tests.service.harness import Harness, config, eventually, ids_request, start, stop

SECRET = "the pass phrase is velvet"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Sink(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.exports: list[trace_service_pb2.ExportTraceServiceRequest] = []

    def Export(self, request: Any, context: Any) -> Any:
        self.exports.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        resources = [resource for export in self.exports for resource in export.resource_spans]
        return [s for r in resources for scope in r.scope_spans for s in scope.spans]


@contextmanager
def collecting(port: int = 0) -> Iterator[tuple[Sink, int]]:
    sink = Sink()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(sink, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield sink, port
    finally:
        server.stop(None).wait()


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Sink, int]]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def traced(runner: asyncio.Runner, collector: tuple[Sink, int]) -> Iterator[Harness]:
    """A service that sends its spans to the collector, and writes prompts into its log."""
    endpoint = f"http://127.0.0.1:{collector[1]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # milliseconds that spans wait for others
        service = config(otlp_endpoint=endpoint, log_prompts=True, kv_blocks=512)
        harness = runner.run(start(runner, service))
    yield harness
    runner.run(stop(harness))


@pytest.fixture
def sink(collector: tuple[Sink, int]) -> Sink:
    collector[0].exports.clear()
    return collector[0]


def request_span(harness: Harness, sink: Sink) -> Span:
    """The span of the one request, once it has come; its children came before it."""

    async def found() -> list[Span]:
        return [span for span in sink.spans if span.kind == Span.SPAN_KIND_SERVER]

    (span,) = harness.run(eventually(found))
    return span


def attributes(span: Span) -> dict[str, Any]:
    def value(held: Any) -> Any:
        kind = held.WhichOneof("value")
        if kind == "array_value":
            return [value(each) for each in held.array_value.values]
        return getattr(held, kind)

    return {each.key: value(each.value) for each in span.attributes}


def test_a_whole_answer_as_its_caller_was_told_of_it(traced: Harness, sink: Sink) -> None:
    request = ids_request([1, 2, 3], 80, request_id="mine")
    request.sampling.temperature, request.sampling.top_k = 0.5, 4
    request.sampling.top_p, request.sampling.seed = 0.75, 7
    request.kv_budget.max_tokens = 64
    usage = traced.run(traced.answer(request)).finished[0].usage
    span = request_span(traced, sink)
    told = attributes(span)
    assert told.pop("sluice.tokenise_seconds") > 0
    for name in ("queue_seconds", "prefill_seconds", "decode_seconds"):
        assert told.pop(f"sluice.{name}") == pytest.approx(getattr(usage, name), abs=1e-6)
    assert told == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "sluice",
        "gen_ai.request.model": "fake",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 80,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.75,
        "gen_ai.request.top_k": 4.0,
        "gen_ai.request.seed": 7,
        "gen_ai.response.id": "mine",
        "gen_ai.response.model": "fake",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_prompt_tokens,
        "rpc.system.name": "grpc",
        "rpc.method": "sluice.v1.Inference/Generate",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": traced.server.port,
        "sluice.kv_budget": 64,
        "sluice.kv_floor": 64,
        "sluice.policy": "r_kv",
        "sluice.kv_tokens_peak": usage.kv_tokens_peak,
        "sluice.kv_tokens_evicted": usage.kv_tokens_evicted,
        "sluice.preemptions": usage.preemptions,
    }
    assert usage.kv_tokens_evicted > 0
    assert (span.name, span.parent_span_id) == ("text_completion fake", b"")
    assert span.status.code == Status.STATUS_CODE_UNSET
    (resource,) = {each.resource.SerializeToString() for each in sink.exports[0].resource_spans}
    assert b"sluice" in resource


def test_the_phases_follow_each_other_within_the_request(traced: Harness, sink: Sink) -> None:
    request = ids_request([4, 5], 60)
    request.sampling.n = 3
    traced.run(traced.answer(request))
    span = request_span(traced, sink)
    told = attributes(span)
    assert told["gen_ai.request.choice.count"] == 3
    assert told["gen_ai.response.finish_reasons"] == ["length"] * 3
    assert told["gen_ai.usage.output_tokens"] == 180
    phases = [each for each in sink.spans if each.parent_span_id == span.span_id]
    assert [phase.name for phase in phases] == ["tokenise", "queue", "prefill", "decode"]
    assert {phase.trace_id for phase in phases} == {span.trace_id}
    edge = span.start_time_unix_nano
    for phase in phases:
        assert phase.start_time_unix_nano == edge
        edge = phase.end_time_unix_nano
        assert phase.start_time_unix_nano <= edge <= span.end_time_unix_nano


def test_phases_of_several_outputs_are_cut_at_the_end(
    runner: asyncio.Runner, collector: tuple[Sink, int], sink: Sink
) -> None:
    """The longest of each need not be of one output."""
    traces = Traces(f"http://127.0.0.1:{collector[1]}", "127.0.0.1", 1)
    account = Account(
        request_id="x",
        model="fake",
        tenant="alice",
        code="DEADLINE_EXCEEDED",
        queue_seconds=3.0,
        prefill_seconds=0.0,
        decode_seconds=4.0,
        seconds=5.0,
    )
    traces.ended(pb.GenerateRequest(), account, ())
    runner.run(traces.close())
    queue, decode, span = sink.spans
    begin, end = span.start_time_unix_nano, span.end_time_unix_nano
    assert end - begin == 5_000_000_000
    assert (queue.name, queue.end_time_unix_nano) == ("queue", begin + 3_000_000_000)
    assert (decode.name, decode.end_time_unix_nano) == ("decode", end)
    assert attributes(span)["sluice.tenant"] == "alice"
    assert span.status.code == Status.STATUS_CODE_ERROR


def test_a_chat_and_no_word_of_it(traced: Harness, sink: Sink) -> None:
    """Nor the stop string, which may be of the answer; though prompts go to the log."""
    turns = pb.Chat(messages=[pb.ChatMessage(role="user", content=SECRET)])
    stopping = pb.Stopping(max_tokens=5, stop=["velvet"])
    answer = traced.run(traced.answer(pb.GenerateRequest(chat=turns, stopping=stopping)))
    assert answer.text[0]
    told = attributes(request_span(traced, sink))
    assert told["gen_ai.operation.name"] == "chat"
    sent = b"".join(export.SerializeToString() for export in sink.exports)
    assert b"velvet" not in sent
    assert answer.text[0].encode() not in sent


def test_a_refused_request_names_its_fields_and_no_values(traced: Harness, sink: Sink) -> None:
    request = pb.GenerateRequest(text=SECRET)
    request.sampling.temperature = -1
    request.sampling.seed = 2**64 - 1  # more than a span's integers hold
    request.kv_budget.policy_settings["velvet"] = 1.0
    traced.run(traced.refusal(request))
    span = request_span(traced, sink)
    told = attributes(span)
    assert told["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert told["error.type"] == "InvalidRequest"
    assert told["sluice.fields"] == ["sampling.temperature", "kv_budget.policy_settings"]
    assert span.status.code == Status.STATUS_CODE_UNSET, "the caller's error, not the server's"
    assert "gen_ai.usage.output_tokens" not in told
    assert "gen_ai.request.seed" not in told
    assert "velvet" not in str(sink.spans)
    assert sink.spans == [span], "it came to no phase"


def test_a_model_by_another_name_is_not_repeated(traced: Harness, sink: Sink) -> None:
    traced.run(traced.refusal(ids_request([1], 1, model=SECRET)))
    told = attributes(request_span(traced, sink))
    assert told["error.type"] == "UnknownModel"
    assert "gen_ai.request.model" not in told
    assert "velvet" not in str(told)


def test_a_caller_that_hangs_up(traced: Harness, sink: Sink) -> None:
    async def scenario() -> None:
        call = traced.inference.Generate(ids_request([1, 2], 5000))
        while not (await call.read()).HasField("tokens"):
            pass
        call.cancel()

    traced.run(scenario())
    told = attributes(request_span(traced, sink))
    assert told["rpc.response.status_code"] == "CANCELLED"
    assert told["error.type"] == "CancelledError"
    assert told["gen_ai.usage.output_tokens"] >= 1
    assert told["gen_ai.response.finish_reasons"] == []


def test_an_error_of_ours_is_an_error_of_the_span(
    traced: Harness, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr("service.servicer.make_submit", broken)
    traced.run(traced.refusal(ids_request([1], 5)))
    span = request_span(traced, sink)
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "KeyError"
    assert "velvet" not in str(span)


def test_the_callers_trace_goes_on(traced: Harness, sink: Sink) -> None:
    metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
    traced.run(traced.answer(ids_request([1], 2), metadata=metadata))
    span = request_span(traced, sink)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"ff-{TRACE}-{PARENT}-01",
        "x" * 5000,
    ],
)
def test_a_malformed_parent_is_ignored(traced: Harness, sink: Sink, header: str, caplog) -> None:
    traced.run(traced.answer(ids_request([1], 2), metadata=(("traceparent", header),)))
    span = request_span(traced, sink)
    assert span.parent_span_id == b""
    assert span.trace_id.hex() != TRACE
    assert "traceparent" not in caplog.text, "or any caller could fill the log"


def test_a_trace_that_its_caller_does_not_record_is_not_recorded(
    traced: Harness, sink: Sink
) -> None:
    metadata = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)
    traced.run(traced.answer(ids_request([1], 2), metadata=metadata))
    traced.run(traced.answer(ids_request([1], 2, request_id="after")))
    assert attributes(request_span(traced, sink))["gen_ai.response.id"] == "after"


def test_a_collector_that_is_away_costs_one_line_each_way(
    launch: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    harness = launch(config(otlp_endpoint=f"http://127.0.0.1:{port}"))

    def lines() -> list[str]:
        return [r.getMessage() for r in caplog.records if "traces" in r.getMessage()]

    async def told(count: int) -> bool:
        await harness.answer(ids_request([1], 2))
        return len(lines()) >= count

    harness.run(eventually(lambda: told(1)))
    for _ in range(3):
        harness.run(harness.answer(ids_request([1], 2)))
    with collecting(port) as (sink, _):
        harness.run(eventually(lambda: told(2)))
        assert sink.spans
        assert lines() == [
            f"http://127.0.0.1:{port} takes no traces; they are dropped until it does",
            f"traces are sent to http://127.0.0.1:{port} again",
        ]
    assert not [r for r in caplog.records if r.name.startswith("opentelemetry")]


def test_a_collector_that_hangs_does_not_hold_up_the_end(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    """Left to itself the SDK would wait for half a minute."""
    monkeypatch.setattr("service.tracing.CLOSE_SECONDS", 0.1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")

    async def scenario(port: int) -> None:
        harness = await start(runner, config(otlp_endpoint=f"http://127.0.0.1:{port}"))
        await harness.answer(ids_request([1], 2))
        await asyncio.wait_for(stop(harness), 20)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        runner.run(scenario(silent.getsockname()[1]))
    assert not [r for r in caplog.records if r.name.startswith("opentelemetry")]


def test_without_the_packages_the_start_says_what_to_install(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    async def scenario() -> None:
        server = Server(config(otlp_endpoint="http://127.0.0.1:4317"))
        with pytest.raises(StartError, match=r"opentelemetry is not installed.*\.\[otel\]"):
            await server.start()
        await server.stop(None)

    runner.run(scenario())


@pytest.mark.parametrize(
    "endpoint",
    [
        "collector:4317",
        "http://collector",
        "http://collector:grpc",
        "http://collector:4318/v1/traces",
        "unix:///run/collector",
        "",
    ],
)
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(ValueError, match="want http://host:port"):
        ServiceConfig(otlp_endpoint=endpoint)
