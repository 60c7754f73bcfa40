"""The planning benchmark runs end to end; nothing is asserted about its timings."""

import json
from pathlib import Path

import pytest

from benchmarks import scheduler as benchmark
from benchmarks.scheduler import Bench, Case, Sizes, headline

TINY = Sizes((2, 4), (3, 9), finished=20, middle=2, steps=16, turns=2)
KEYS = {"ratio_running", "ratio_waiting", "ratio_finished", "ratio_collector", "microseconds"}


def test_the_last_line_has_the_ratios(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stored: Path
) -> None:
    monkeypatch.setattr(benchmark, "QUICK", TINY)
    benchmark.main(quick=True)
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert numbers.keys() == KEYS
    assert all(value > 0 for value in numbers.values())
    rows = (stored / "scheduler.jsonl").read_text().splitlines()
    assert all(json.loads(row)["quick"] for row in rows)
    assert len(rows) > 1


@pytest.mark.parametrize("case", list(dict.fromkeys(TINY.cases())), ids=str)
def test_a_bench_stays_in_the_state_of_its_case(case: Case) -> None:
    bench = Bench(case, steps=48)
    for _ in range(3):
        assert bench.run(16) > 0
        bench.scheduler.check()
        assert bench.scheduler.num_live == case.running + case.waiting
    totals = bench.scheduler.totals
    assert (totals.rounds["window"] > 0) == (case.budgeted and not case.churn)
    assert totals.preemptions == 0


def test_ratios_are_of_the_ends_of_each_range() -> None:
    costs = dict.fromkeys(TINY.cases(), 1.0)
    costs[Case(4, budgeted=False)] = 3.0
    costs[Case(2, waiting=9, waits_for="blocks")] = 5.0
    costs[Case(2, finished=20)] = 7.0
    costs[Case(2, waiting=9, collector=True)] = 9.0
    rows = [{**vars(case), "microseconds": cost} for case, cost in costs.items()]
    numbers = headline(rows)
    assert numbers == {
        "ratio_running": 3.0,
        "ratio_waiting": 5.0,
        "ratio_finished": 7.0,
        "ratio_collector": 9.0,
        "microseconds": 1.0,
    }
