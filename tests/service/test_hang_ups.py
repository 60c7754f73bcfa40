"""Calls that are hung up on at every stage of their lives: all of them end, and nothing stays."""

import asyncio
import os
import signal
from pathlib import Path

import grpc
import pytest

from protos.sluice.v1 import sluice_pb2 as pb
from tests.service.harness import Caller, Harness, eventually, fake_tokens, ids_request
from tests.service.scale import SCALE
from tests.service.test_serve import served

WAVES = 4 * SCALE  # of 51 calls
HOGS, EACH = 15, 12  # of max_running 16, one is left for somebody who stays
GROWTH = 8 * 2**20  # bytes; 6,120 calls took 1.3 MiB
LONG = 5000  # tokens; nobody waits for them
OPTIONS = (
    *("--fake-step-seconds", "0.002", "--max-running", "16", "--drain-seconds", "300"),
    *("--log-level", "warning"),  # nobody reads the lines
)


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def wave(caller: Caller) -> None:
    """Calls that end at once, after Accepted, after the first tokens, and in the queue."""
    generate = caller.inference.Generate
    for call in [generate(request(i)) for i in range(EACH)]:
        call.cancel()
    for call in [generate(request(i)) for i in range(EACH)]:
        assert (await call.read()).HasField("accepted")
        call.cancel()
    hogs = await asyncio.gather(*(caller.begin(request(i)) for i in range(HOGS)))
    waiting = [generate(request(i)) for i in range(EACH)]
    for call in waiting:
        assert (await call.read()).HasField("accepted")
    assert (await caller.load()).waiting > 0
    for call in (*waiting, *hogs):
        call.cancel()


async def stay(caller: Caller, done: asyncio.Event) -> int:
    """Asks for whole answers until the hanging up is over; how many there were."""
    answers = 0
    while not done.is_set() or not answers:
        prompt = [answers % 256, 9]
        answer = await caller.answer(ids_request(prompt, 150, priority=1), timeout=60)
        assert answer.ids[0] == fake_tokens(prompt, 150)
        answers += 1
    return answers


def request(number: int) -> pb.GenerateRequest:
    return ids_request([number % 256, 7], LONG)


@pytest.mark.timeout(120 + 5 * SCALE)
def test_thousands_of_hang_ups_leave_nothing_behind(runner: asyncio.Runner) -> None:
    async def scenario(address: str, pid: int) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            caller, done = Caller(channel), asyncio.Event()
            await wave(caller)  # memory that is taken once
            before = resident(pid)
            staying = asyncio.create_task(stay(caller, done))
            for _ in range(WAVES):
                await wave(caller)
            done.set()
            assert await staying > 0
            await eventually(caller.is_idle)
            assert resident(pid) - before < GROWTH

    with served(*OPTIONS) as (process, address):
        runner.run(scenario(address, process.pid))
        process.send_signal(signal.SIGTERM)  # a request that lived on would hold up the drain
        assert process.wait(30) == 0


def test_hang_ups_leave_no_stream(fast: Harness) -> None:
    """The same seen from within."""

    async def hang_up(i: int) -> None:
        stream = fast.inference.Generate(ids_request([i % 256, 7], 1500))
        if i % 3:
            await stream.read()
        stream.cancel()

    async def scenario() -> None:
        for start in range(0, 300, 50):
            await asyncio.gather(*(hang_up(i) for i in range(start, start + 50)))
        await eventually(fast.is_idle)
        assert len(fast.server.live) == 0
        assert not fast.server.client._streams

    fast.run(scenario())
