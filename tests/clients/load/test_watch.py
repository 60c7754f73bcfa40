"""The client's look at itself."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import pytest

from clients.load.loop import WatchedLoop
from clients.load.watch import TICK_SECONDS, TIMER_SECONDS, LoopWatch, Tick


def test_every_tick_of_a_blocked_loop_counts_with_its_delay() -> None:
    moments = iter([100.0, 100.0, 100.0005, 100.0205, 100.0905])

    async def scenario() -> LoopWatch:
        watch = LoopWatch(origin=90.0, clock=lambda: next(moments))
        for _ in range(4):
            watch.look()
        return watch

    watch = asyncio.run(scenario())
    assert [tick.at for tick in watch.ticks] == pytest.approx([10.0, 10.02, 10.04, 10.06, 10.08])
    late = [0.0, 0.0, 0.0505, 0.0305, 0.0105]
    expected = [max(value - TIMER_SECONDS, 0.0) for value in late]
    assert [tick.late for tick in watch.ticks] == pytest.approx(expected)
    assert TICK_SECONDS == 0.02


async def used(work: Callable[[], Awaitable[None]]) -> tuple[Tick, Tick]:
    moments = itertools.count()
    watch = LoopWatch(origin=0.0, clock=lambda: float(next(moments)))
    watch.look()
    await work()
    watch.look()
    return watch.ticks[0], watch.ticks[-1]


def test_a_watched_loop_knows_how_long_it_waited() -> None:
    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        before, after = runner.run(used(lambda: asyncio.sleep(0.2)))
    assert before.idle is not None
    assert after.idle is not None
    assert after.idle - before.idle >= 0.19
    assert after.cpu >= before.cpu


def test_a_blocked_loop_does_not_wait() -> None:
    async def blocked() -> None:
        time.sleep(0.2)
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        before, after = runner.run(used(blocked))
    assert (after.idle or 0) - (before.idle or 0) < 0.1


def test_another_loop_does_not_know() -> None:
    before, _ = asyncio.run(used(lambda: asyncio.sleep(0)))
    assert before.idle is None
