"""A Sluice that answers from a script: both services and health, on threads, without an engine."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from protos.sluice.v1 import sluice_pb2 as pb
from protos.sluice.v1 import sluice_pb2_grpc

POLICIES = ("r_kv", "window")


@dataclass(frozen=True)
class Failure:
    """A status to end a call with."""

    code: grpc.StatusCode
    message: str = "as the script says"
    field: str | None = None
    retry_after: float | None = None
    after_events: int = 0  # how many events are sent before it

    def status(self) -> object:
        details = []
        if self.field is not None:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.message
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after is not None:
            delay = Duration()
            delay.FromMilliseconds(round(1000 * self.retry_after))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        packed = []
        for detail in details:
            packed.append(AnyMessage())
            packed[-1].Pack(detail)
        number = self.code.value[0]
        return rpc_status.to_status(
            status_pb2.Status(code=number, message=self.message, details=packed)
        )


def echo(prompt: str) -> str:
    return f"I think: {prompt}</think>{prompt}"


def model_info(name: str = "script", **changes: Any) -> pb.ModelInfo:
    known: dict[str, Any] = {
        "architecture": "ScriptForCausalLM",
        "max_sequence_tokens": 4096,
        "block_size": 16,
        "total_blocks": 100,
        "device": "cpu",
        "dtype": "float32",
        "kernels": "reference",
        "default_policy": POLICIES[0],
        "policies": [pb.PolicyInfo(name=policy) for policy in POLICIES],
    }
    return pb.ModelInfo(name=name, **{**known, **changes})


@dataclass
class FakeSluice(sluice_pb2_grpc.InferenceServicer, sluice_pb2_grpc.ControlServicer):
    """One token per character; the cache is cut to the budget the way a real one would be."""

    answer: Callable[[str], str] = echo
    info: pb.ModelInfo = field(default_factory=model_info)
    failures: list[Failure] = field(default_factory=list)  # one per Generate call, from the front
    fail: Callable[[pb.GenerateRequest], Failure | None] = lambda request: None
    truncated: bool = False  # every answer ends for its length
    loads: list[pb.Load] = field(default_factory=list)  # one per GetLoad call; the last stays
    hold: threading.Event | None = None  # answers wait for it after Accepted
    requests: list[pb.GenerateRequest] = field(default_factory=list)
    aborted: list[pb.AbortRequest] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)  # an answer was cut short
    running: int = 0
    most_running: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def Generate(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateEvent]:
        with self._lock:
            self.requests.append(request)
            failure = self.failures.pop(0) if self.failures else self.fail(request)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        whole = threading.Event()
        context.add_callback(lambda: self._ended(whole))
        for number, event in enumerate(self._events(request)):
            if failure is not None and number == failure.after_events:
                context.abort_with_status(failure.status())
            if number == 1 and self.hold is not None:
                while not self.hold.wait(0.02):
                    if not context.is_active():
                        return
            yield event
        whole.set()

    def GetServerInfo(self, request: object, context: object) -> pb.ServerInfo:
        return pb.ServerInfo(version="0.1.0", max_running=8)

    def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: grpc.ServicerContext
    ) -> pb.ModelInfo:
        if request.HasField("model") and request.model != self.info.name:
            context.abort_with_status(Failure(grpc.StatusCode.NOT_FOUND, "no such model").status())
        return self.info

    def GetLoad(self, request: object, context: object) -> pb.Load:
        if len(self.loads) > 1:
            return self.loads.pop(0)
        return self.loads[0] if self.loads else pb.Load(running=self.running)

    def Abort(self, request: pb.AbortRequest, context: object) -> pb.AbortResponse:
        self.aborted.append(request)
        return pb.AbortResponse(aborted=1)

    def _ended(self, whole: threading.Event) -> None:
        with self._lock:
            self.running -= 1
        if not whole.is_set():
            self.hung_up.set()

    def _events(self, request: pb.GenerateRequest) -> Iterator[pb.GenerateEvent]:
        prompt = request.text or "".join(m.content for m in request.chat.messages)
        prompt = prompt or "".join(map(chr, request.token_ids.ids))
        budget = request.kv_budget
        cap = budget.max_tokens
        yield pb.GenerateEvent(
            accepted=pb.Accepted(
                request_id=request.request_id or "made",
                prompt_tokens=len(prompt),
                kv_budget=cap,
                policy=(budget.policy or POLICIES[0]) if cap else "",
                recent_tokens=8 if cap else 0,
                reclaim_tokens=16 if cap else 0,
                min_tokens=budget.min_tokens or cap,
                seed=request.sampling.seed,
            )
        )
        for index in range(request.sampling.n or 1):
            text = self.answer(prompt)
            had = len(request.resumed.ids)
            if had:
                yield pb.GenerateEvent(tokens=pb.Tokens(text=text[:had]))
            half = had + (len(text) - had) // 2
            for part in (text[had:half], text[half:]):
                ids = [ord(letter) for letter in part]
                yield pb.GenerateEvent(tokens=pb.Tokens(output_index=index, ids=ids, text=part))
            yield pb.GenerateEvent(progress=pb.Progress(running=1))
            finished = self._finished(index, len(prompt), text, cap)
            finished.usage.resumed_tokens = had
            yield pb.GenerateEvent(finished=finished)

    def _finished(self, index: int, prompt: int, text: str, cap: int) -> pb.Finished:
        length = prompt + len(text)
        thinking = len(text.rpartition("</think>")[0])
        reason = pb.FINISH_REASON_LENGTH if self.truncated else pb.FINISH_REASON_STOP
        peak = min(length, cap) if cap else length
        return pb.Finished(
            output_index=index,
            reason=reason,
            usage=pb.Usage(
                prompt_tokens=prompt,
                completion_tokens=len(text),
                reasoning_tokens=thinking,
                kv_tokens_peak=peak,
                kv_tokens_final=peak,
                kv_tokens_evicted=length - peak,
                eviction_rounds=-(-(length - peak) // 16),
                kv_blocks_peak=-(-peak // 16),
            ),
        )


@contextmanager
def serving(fake: FakeSluice, *, healthy: bool = True, port: int = 0) -> Iterator[str]:
    """Serves `fake` on a port, 0 for any free one; yields "host:port"."""
    server = grpc.server(ThreadPoolExecutor(32))
    sluice_pb2_grpc.add_InferenceServicer_to_server(fake, server)
    sluice_pb2_grpc.add_ControlServicer_to_server(fake, server)
    status = health_pb2.HealthCheckResponse
    servicer = health.HealthServicer()
    servicer.set("", status.SERVING if healthy else status.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()
