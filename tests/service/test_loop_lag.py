"""The worst lag of the last 15 seconds, on a clock of our own."""

import asyncio
import time

import pytest

from service.loop_lag import BEAT_SECONDS, WINDOW_SECONDS, LoopLag


def test_without_a_timer_there_is_no_lag() -> None:
    assert LoopLag().value(100.0) == 0


def test_the_worst_of_the_window_counts_and_is_forgotten() -> None:
    lag = LoopLag()
    for at, late in ((0.0, 0.01), (1.0, 0.7), (2.0, 0.02), (3.0, 0.3)):
        lag._due = at
        lag.beat(at + late)
    lag._due = 1000.0  # the next one is not due
    assert lag.value(4.0) == pytest.approx(0.7)
    assert lag.value(1.7 + WINDOW_SECONDS + 0.1) == pytest.approx(0.3)
    assert lag.value(3.3 + WINDOW_SECONDS + 0.1) == 0
    assert len(lag._beats) == 2, "what can never be the worst again is dropped"


def test_a_beat_that_is_overdue_counts_before_it_comes() -> None:
    lag = LoopLag()
    lag._due = 10.0
    assert lag.value(10.0 - BEAT_SECONDS) == 0
    assert lag.value(15.0) == 5


def test_a_blocked_loop_shows_as_lag() -> None:
    async def scenario() -> tuple[float, float]:
        lag = LoopLag()
        task = asyncio.create_task(lag.run())
        await asyncio.sleep(2 * BEAT_SECONDS)  # a beat is under way
        time.sleep(BEAT_SECONDS + 0.3)  # blocks the loop
        while_blocked = lag.value(time.monotonic())
        await asyncio.sleep(2 * BEAT_SECONDS)
        afterwards = lag.value(time.monotonic())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return while_blocked, afterwards

    while_blocked, afterwards = asyncio.run(scenario())
    assert 0.29 <= while_blocked <= afterwards + 1e-9
