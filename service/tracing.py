"""A span for every request, sent to an OpenTelemetry collector in the background: OTLP over gRPC.

A span is made from the request's account when it ends, so a live request costs nothing. Attributes
bear the names of OpenTelemetry's conventions for GenAI and RPC, and `sluice.*` what these do not
name. Prompts, answers and stop strings are never among them, `log_prompts` or not: spans leave this
machine. The one file that knows opentelemetry, which is imported where an endpoint is set.
"""

import asyncio
import importlib.metadata
import logging
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from protos.sluice.v1 import sluice_pb2
from service.account import Account
from service.errors import UnknownModel

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0  # for the last spans, at the end of the service
CONVENTIONS = {  # names of what an account says; the others are sluice.*
    "request_id": "gen_ai.response.id",
    "model": "gen_ai.response.model",
    "code": "rpc.response.status_code",
    "error": "error.type",
    "finish_reasons": "gen_ai.response.finish_reasons",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "cached_prompt_tokens": "gen_ai.usage.cache_read.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
}
FAULTS = {  # statuses that are errors of a server, by the conventions for gRPC
    *("DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN"),
}
PHASES = ("tokenise", "queue", "prefill", "decode")  # child spans, one after the other
PARENT = ("traceparent", "tracestate")  # W3C Trace Context


class Traces:
    """Makes the spans and queues them; a thread of the SDK sends them and drops what it cannot."""

    def __init__(self, endpoint: str, host: str, port: int) -> None:
        """`endpoint` is a collector's, http://host:port or https://; `host` and `port` are ours.

        Raises:
            ImportError: opentelemetry is not installed.
            ValueError, RuntimeError: one of the SDK's own variables (OTEL_...) cannot be used.
        """
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._propagator = TraceContextTextMapPropagator()
        version = importlib.metadata.version("sluice")
        name = os.environ.get("OTEL_SERVICE_NAME", "sluice")
        resource = Resource.create({SERVICE_NAME: name, SERVICE_VERSION: version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._exporter = Exporter(endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(cast(Any, self._exporter)))
        self._tracer = self._provider.get_tracer("sluice", version)
        self._fixed: dict[str, Any] = {
            "gen_ai.provider.name": "sluice",
            "rpc.system.name": "grpc",
            "rpc.method": "sluice.v1.Inference/Generate",
            "server.address": host,
            "server.port": port,
        }

    def ended(
        self,
        request: sluice_pb2.GenerateRequest,
        account: Account,
        metadata: Iterable[tuple[str, Any]],
    ) -> None:
        """Makes the span of a request that ends now; `metadata`, of its call, may name a parent."""
        end = time.time_ns()
        start = end - _nanoseconds(account.seconds)
        attributes = self._fixed | _requested(request, account) | _told(account)
        span = self._tracer.start_span(
            f"{attributes['gen_ai.operation.name']} {account.model or ''}".rstrip(),
            context=self._propagator.extract({k: v for k, v in metadata if k in PARENT}),
            kind=self._api.SpanKind.SERVER,
            attributes=attributes,
            start_time=start,
        )
        if account.code in FAULTS:
            span.set_status(self._api.StatusCode.ERROR)
        if span.is_recording():
            self._add_phases(span, account, start, end)
        span.end(end)

    async def close(self) -> None:
        """Sends what is queued, for CLOSE_SECONDS at most."""
        closing = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        done, _ = await asyncio.wait([closing], timeout=CLOSE_SECONDS)
        if not done:
            self._exporter.shutdown()  # ends the attempt that the thread waits for
        await closing

    def _add_phases(self, span: Any, account: Account, start: int, end: int) -> None:
        """A child for each phase that the account has a time of. Of several outputs that is the
        longest, so all together may be longer than the request; they are cut at its end."""
        parent = self._api.set_span_in_context(span)
        for name in PHASES:
            if seconds := getattr(account, f"{name}_seconds"):
                child = self._tracer.start_span(name, context=parent, start_time=start)
                start = min(start + _nanoseconds(seconds), end)
                child.end(start)


class Exporter:
    """An exporter of spans that tells the log when its collector stops answering, and when it is
    back, once each; the SDK's own would tell of every attempt."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult

        self._endpoint = endpoint
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._success = SpanExportResult.SUCCESS
        self._answers = True
        if not log.isEnabledFor(logging.DEBUG):
            logging.getLogger("opentelemetry").setLevel(logging.ERROR)
            logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)

    def export(self, spans: "list[ReadableSpan]") -> "SpanExportResult":
        result = self._exporter.export(spans)
        answers = result is self._success
        if answers != self._answers:
            self._answers = answers
            if answers:
                log.info("traces are sent to %s again", self._endpoint)
            else:
                log.warning("%s takes no traces; they are dropped until it does", self._endpoint)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _requested(request: sluice_pb2.GenerateRequest, account: Account) -> dict[str, Any]:
    """What was asked for, as far as it was said."""
    sampling, stopping = request.sampling, request.stopping
    chat = request.WhichOneof("input") == "chat"
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat" if chat else "text_completion",
        "gen_ai.request.stream": True,
    }
    if account.model is not None and account.error != UnknownModel.__name__:
        attributes["gen_ai.request.model"] = account.model  # by any other name it was refused
    for name in ("temperature", "top_p", "top_k"):
        if sampling.HasField(name):
            attributes[f"gen_ai.request.{name}"] = float(getattr(sampling, name))
    if sampling.HasField("seed"):  # one of 64 bits is left out by the exporter
        attributes["gen_ai.request.seed"] = sampling.seed
    if sampling.HasField("n") and sampling.n != 1:
        attributes["gen_ai.request.choice.count"] = sampling.n
    if stopping.HasField("max_tokens"):
        attributes["gen_ai.request.max_tokens"] = stopping.max_tokens
    return attributes


def _told(account: Account) -> dict[str, Any]:
    """What the account says; `seconds` is the span's own length."""
    values = msgspec.structs.asdict(account)
    del values["seconds"]
    return {
        CONVENTIONS.get(name, f"sluice.{name}"): value
        for name, value in values.items()
        if value is not None
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
