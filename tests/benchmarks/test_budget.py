"""The budget benchmark runs end to end; nothing is asserted about its timings."""

import json
from pathlib import Path

import pytest

from benchmarks import budget as benchmark
from benchmarks.budget import Pool, Sizes

TINY = Sizes(24, 48, (64,), ("window",), turns=1, threads=1)


def test_the_last_line_has_every_arms_ratio(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stored: Path
) -> None:
    monkeypatch.setattr(benchmark, "QUICK", TINY)
    benchmark.main(quick=True)
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert numbers.keys() == {"window 64"}
    assert numbers["window 64"] > 0
    rows = (stored / "budget.jsonl").read_text().splitlines()
    assert all(json.loads(row)["quick"] for row in rows)
    assert len(rows) > 1


def test_the_whole_cache_overfills_the_pool_and_a_budget_evicts() -> None:
    pool = Pool(TINY)
    whole = pool.run("whole cache", 0, TINY.requests)
    budgeted = pool.run("window", 64, TINY.requests)
    assert whole.preemptions > 0
    assert whole.tokens_recomputed > 0
    assert whole.tokens_evicted == 0
    assert budgeted.preemptions == budgeted.tokens_recomputed == 0
    assert budgeted.tokens_evicted > 0
    assert 1 < budgeted.concurrency <= TINY.requests
