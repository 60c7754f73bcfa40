"""The client's look at itself."""

import pytest

from clients.load.watch import TICK_SECONDS, TIMER_SECONDS, LoopWatch


def test_every_tick_of_a_blocked_loop_counts_with_its_delay() -> None:
    moments = iter([100.0, 100.0, 100.0005, 100.0205, 100.0905])
    watch = LoopWatch(origin=90.0, clock=lambda: next(moments))
    for _ in range(4):
        watch.look()
    assert [tick.at for tick in watch.ticks] == pytest.approx([10.0, 10.02, 10.04, 10.06, 10.08])
    late = [0.0, 0.0, 0.0505, 0.0305, 0.0105]
    expected = [max(value - TIMER_SECONDS, 0.0) for value in late]
    assert [tick.late for tick in watch.ticks] == pytest.approx(expected)
    assert TICK_SECONDS == 0.02


def test_cpu_time_only_grows() -> None:
    moments = iter([0.0, 0.0, 0.02])
    watch = LoopWatch(origin=0.0, clock=lambda: next(moments))
    watch.look()
    sum(range(100_000))
    watch.look()
    assert 0 <= watch.ticks[0].cpu <= watch.ticks[1].cpu
