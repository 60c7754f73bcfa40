"""The process of a client is killed, or stopped in the middle of its stream."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.service.harness import Harness, config, eventually, fake_tokens, ids_request

READER = """
import grpc, sys
from protos.sluice.v1 import sluice_pb2 as pb, sluice_pb2_grpc as rpc
stub = rpc.InferenceStub(grpc.insecure_channel(sys.argv[1]))
request = pb.GenerateRequest(text='x', request_id='theirs', stopping=pb.Stopping(max_tokens=5000))
for event in stub.Generate(request): print(event.WhichOneof('event'), flush=True)
"""


@contextlib.asynccontextmanager
async def reader(harness: Harness) -> AsyncIterator[subprocess.Popen[str]]:
    """A client in a process of its own that has its first tokens of a long answer."""
    process = subprocess.Popen(
        [sys.executable, "-c", READER, harness.address], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        while (line := await asyncio.to_thread(process.stdout.readline)) != "tokens\n":
            assert line, "the client ended"
        yield process
    finally:
        process.kill()
        process.communicate()


async def gone(harness: Harness) -> None:
    """Returns once the client's request is over, and others are served as before."""
    beside: Any = asyncio.create_task(harness.answer(ids_request([3], 50)))

    async def given_up() -> bool:
        return harness.server.live.get("", "theirs") is None

    await eventually(given_up)
    assert (await beside).ids[0] == fake_tokens([3], 50)
    await eventually(harness.is_idle)


def test_a_client_that_dies_frees_everything(slow: Harness) -> None:
    async def scenario() -> None:
        async with reader(slow) as process:
            assert (await slow.load()).running == 1
            process.kill()
            await gone(slow)

    slow.run(scenario())


def test_a_client_that_is_stopped_is_given_up(launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection lives and takes bytes for long, but nobody answers the server's pings."""
    monkeypatch.setattr("service.ports.KEEPALIVE_MS", 1000)
    monkeypatch.setattr("service.ports.PING_TIMEOUT_MS", 1000)
    harness: Harness = launch(config(0.02))

    async def scenario() -> None:
        async with reader(harness) as process:
            process.send_signal(signal.SIGSTOP)
            await gone(harness)  # gRPC's own ping time-out of a minute would be too late

    harness.run(scenario())
