"""A load test of the real service with the model that needs no weights."""

import json
from pathlib import Path

import msgspec
import pytest

from clients.load.record import Row
from tests.end_to_end.test_fake_service import LocalServer, server, sluice

__all__ = ["server"]  # the fixture
WINDOW_SECONDS = 1.5


def test_a_load_test_from_the_command_line(server: LocalServer, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = sluice(
        "load", "--server", server.target, "--rate", "20", "--duration", str(WINDOW_SECONDS),
        "--warm-up", "0.5", "--prompt-tokens", "8:24", "--output-tokens", "30:90",
        "--mix", "budget=full", "--mix", "budget=64,policy=window,weight=2",
        "--slo", "e2e:100000", "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    numbers = json.loads((out / "load.json").read_text())
    assert (numbers["scheduled"], numbers["completed"], numbers["failed"]) == (30, 30, 0)
    assert numbers["warm_up_requests"] == 10
    assert numbers["good_share"] == 1
    lines = (out / "requests.jsonl").read_bytes().splitlines()
    rows = [msgspec.json.decode(line, type=Row) for line in lines]
    assert [row.scheduled for row in rows] == sorted(row.scheduled for row in rows)
    for row in rows:
        assert 8 <= row.prompt_tokens <= 24
        assert 30 <= row.asked_tokens <= 90
        assert sum(row.chunk_tokens) == row.completion_tokens == row.asked_tokens
        assert row.finish_reason == "length"
        assert row.share == ("64 window" if row.budget else "full")
        assert row.kv_tokens_peak <= (row.budget or 10_000)
    assert any(row.kv_tokens_evicted for row in rows)
    start, end = numbers["window"]
    within = sum(
        count
        for row in rows
        for at, count in zip(row.chunk_times, row.chunk_tokens, strict=True)
        if start <= at <= end
    )
    assert numbers["output_throughput"] * WINDOW_SECONDS == pytest.approx(within)
    assert [load["running"] for load in numbers["server_load"]]
