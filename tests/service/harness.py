"""A running service, its stubs, and the fake model's arithmetic done by hand."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from engine.messages import ModelInfo, PolicyInfo, PolicySetting
from protos.sluice.v1 import sluice_pb2 as pb
from protos.sluice.v1 import sluice_pb2_grpc
from service.config import EngineConfig, SchedulerConfig, ServiceConfig
from service.server import Server

MODEL = ModelInfo(
    name="fake",
    architecture="fake",
    max_sequence_tokens=100,
    vocabulary_size=257,
    block_size=16,
    total_blocks=64,
    kv_bytes_per_token=0,
    dtype="none",
    device="cpu",
    kernels="none",
    eos_token_ids=[256],
    default_kv_budget=0,
    max_kv_budget=0,
    default_policy="r_kv",
    policies=[
        PolicyInfo(
            "r_kv",
            "",
            0.125,
            [
                PolicySetting("lambda", "", 0.1, 0.0, 1.0, False),
                PolicySetting("window", "", 8.0, 1.0, 64.0, True),
            ],
        ),
        PolicyInfo("plain", "", 0.125, []),
    ],
    max_running=4,
    max_waiting=4,
)


def fake_tokens(prompt: list[int], count: int) -> list[int]:
    """What the fake model draws: (31 * last + 7 * position + 3) % 251."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append((31 * tokens[-1] + 7 * (len(tokens) - 1) + 3) % 251)
    return tokens[len(prompt) :]


def config(step: float = 0.0, **changes: Any) -> ServiceConfig:
    """A service on a free port; settings of scheduler and engine go by their own names."""
    scheduler = {
        name: changes.pop(name)
        for name in ("max_running", "max_waiting", "max_batch_tokens", "prefix_cache")
        if name in changes
    }
    engine = {
        name: changes.pop(name)
        for name in ("kv_blocks", "max_sequence_tokens", "budgets")
        if name in changes
    }
    return ServiceConfig(
        listen="127.0.0.1:0",
        metrics_port=changes.pop("metrics_port", None),
        engine=EngineConfig(
            fake_step_seconds=step, scheduler=SchedulerConfig(**scheduler), **engine
        ),
        **changes,
    )


@dataclass
class Answer:
    """A whole stream, by output."""

    accepted: pb.Accepted | None = None
    ids: dict[int, list[int]] = field(default_factory=dict)
    text: dict[int, str] = field(default_factory=dict)
    messages: list[pb.Tokens] = field(default_factory=list)
    progress: list[pb.Progress] = field(default_factory=list)
    finished: dict[int, pb.Finished] = field(default_factory=dict)

    def add(self, event: pb.GenerateEvent) -> None:
        kind = event.WhichOneof("event")
        assert (kind == "accepted") == (self.accepted is None), "Accepted is the first, once"
        if kind == "accepted":
            self.accepted = event.accepted
        elif kind == "tokens":
            output = event.tokens.output_index
            assert output not in self.finished
            self.ids.setdefault(output, []).extend(event.tokens.ids)
            self.text[output] = self.text.get(output, "") + event.tokens.text
            self.messages.append(event.tokens)
        elif kind == "progress":
            self.progress.append(event.progress)
        else:
            assert event.finished.output_index not in self.finished
            self.finished[event.finished.output_index] = event.finished


@dataclass
class Caller:
    """Stubs of a service, and what tests ask of it."""

    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.inference = sluice_pb2_grpc.InferenceStub(self.channel)
        self.control = sluice_pb2_grpc.ControlStub(self.channel)

    async def answer(self, request: pb.GenerateRequest, **call: Any) -> Answer:
        answer = Answer()
        async for event in self.inference.Generate(request, **call):
            answer.add(event)
        return answer

    async def begin(self, request: pb.GenerateRequest, **call: Any) -> Any:
        """A call that has its first tokens."""
        stream = self.inference.Generate(request, **call)
        while (await stream.read()).WhichOneof("event") != "tokens":
            pass
        return stream

    async def refusal(self, request: pb.GenerateRequest, **call: Any) -> grpc.aio.AioRpcError:
        """The error that the call ends with."""
        try:
            await self.answer(request, **call)
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("the call ended with OK")

    async def load(self) -> pb.Load:
        return await self.control.GetLoad(pb.GetLoadRequest())

    async def is_idle(self) -> bool:
        """Nothing runs, nothing waits and every block is free or only cached."""
        load, model = await self.load(), await self.control.GetModelInfo(pb.GetModelInfoRequest())
        held = load.running, load.waiting, load.blocks_used, load.blocks_promised
        return not any(held) and load.blocks_free + load.blocks_cached == model.total_blocks


@dataclass
class Harness(Caller):
    """A server, a channel to it and a way to run coroutines on their loop."""

    runner: asyncio.Runner
    server: Server

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)


async def start(runner: asyncio.Runner, service: ServiceConfig, **server: Any) -> Harness:
    started = Server(service, **server)
    await started.start()
    return Harness(grpc.aio.insecure_channel(f"127.0.0.1:{started.port}"), runner, started)


async def stop(harness: Harness) -> None:
    await harness.channel.close()
    await harness.server.stop(None)


async def eventually(condition: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> Any:
    """Waits until `condition` holds, generously: the machine may be busy."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline, f"did not come true in {seconds} s"
        await asyncio.sleep(0.01)
    return found


def details(error: grpc.aio.AioRpcError) -> tuple[list[str], float | None]:
    """Fields that BadRequest names, and the seconds of RetryInfo."""
    fields: list[str] = []
    retry = None
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        bad, info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
        elif detail.Unpack(info):
            retry = info.retry_delay.ToMilliseconds() / 1000
    return fields, retry


def ids_request(prompt: list[int], max_tokens: int, **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=prompt),
        stopping=pb.Stopping(max_tokens=max_tokens),
        **fields,
    )
