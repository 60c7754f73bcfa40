"""Sweeps that were interrupted go on: nothing repeated, nothing lost, nothing mixed in."""

import asyncio
import io
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from rich.console import Console

from clients import records
from clients.errors import DataError, SweepError
from clients.sweep.plan import Plan, Settings
from clients.sweep.run import MANIFEST, ROWS, read_manifest
from clients.sweep.runner import sweep
from clients.workloads.problem import Problem
from protos.sluice.v1 import sluice_pb2 as pb
from tests.clients.builders import problem
from tests.clients.fake_sluice import Failure, FakeSluice, model_info, serving
from tests.clients.sweeping import FULL, TIGHT, asked, plan, run

Code = grpc.StatusCode


def stop_after(fake: FakeSluice, answers: int) -> None:
    """From then on nothing is answered any more."""
    hold = threading.Event()

    def fail(request: pb.GenerateRequest) -> None:
        if len(asked(fake)) > answers:
            fake.hold = hold

    fake.fail = fail


def interrupt(fake: FakeSluice, wanted: Plan, out: Path, rows: int) -> None:
    """Sweeps until `rows` rows are on disk, then cancels as Ctrl-C does."""

    async def scenario(target: str) -> None:
        task = asyncio.create_task(sweep([target], wanted, out, Console(file=io.StringIO())))
        while not task.done() and len(records.read(out / ROWS)) < rows:
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])

    with serving(fake) as target:
        asyncio.run(scenario(target))


@pytest.mark.parametrize("answers", [1, 5, 7])
def test_an_interrupted_run_goes_on_without_repeating_or_losing(
    tmp_path: Path, answers: int
) -> None:
    wanted = plan(5, policies=("r_kv",), settings=Settings(concurrency=1, max_tokens=50))
    first = FakeSluice()
    stop_after(first, answers)
    interrupt(first, wanted, tmp_path, answers)
    before = records.read(tmp_path / ROWS)
    assert len(before) == answers

    second = FakeSluice()
    rows = run(second, wanted, tmp_path)
    assert rows[:answers] == before
    assert len(asked(second)) == 10 - answers
    assert Counter(row.cell for row in rows) == {FULL: 5, TIGHT: 5}
    segments = {cell: {row.segment for row in rows if row.cell == cell} for cell in (FULL, TIGHT)}
    interrupted = {FULL: answers < 5, TIGHT: answers > 5}
    assert segments == {cell: {0, 1} if cut else {0} for cell, cut in interrupted.items()}

    third = FakeSluice()
    assert run(third, wanted, tmp_path) == rows
    assert third.requests == []


def test_failed_requests_are_asked_again(tmp_path: Path) -> None:
    wanted = plan(3, budgets=(None,))
    bad = problem(1).prompt
    run(
        FakeSluice(fail=lambda r: Failure(Code.INTERNAL) if r.text == bad else None),
        wanted,
        tmp_path,
    )
    fake = FakeSluice()
    rows = run(fake, wanted, tmp_path)
    assert [request.text for request in asked(fake)] == [bad]
    assert len(rows) == 3
    assert not any(row.failed for row in rows)


def test_a_larger_plan_keeps_what_is_there(tmp_path: Path) -> None:
    run(FakeSluice(), plan(2, budgets=(None,)), tmp_path)
    fake = FakeSluice()
    rows = run(fake, plan(3, budgets=(None, 20), policies=("r_kv",)), tmp_path)
    assert len(rows) == 6
    assert len(asked(fake)) == 4


def test_a_run_with_other_settings_is_not_mixed_in(tmp_path: Path) -> None:
    run(FakeSluice(), plan(1), tmp_path)
    other = plan(1, settings=Settings(concurrency=8, max_tokens=50))
    with pytest.raises(SweepError, match="concurrency was 4, now 8"):
        run(FakeSluice(), other, tmp_path)
    info = model_info()
    info.total_blocks = 7
    with pytest.raises(SweepError, match="total_blocks was 100, now 7"):
        run(FakeSluice(info=info), plan(1), tmp_path)


def test_a_run_without_rows_may_change_its_settings(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="no policy"):
        run(FakeSluice(), plan(1, policies=("h2o",)), tmp_path)
    run(FakeSluice(), plan(1, settings=Settings(concurrency=2)), tmp_path)
    assert read_manifest(tmp_path / MANIFEST).settings.concurrency == 2


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    run(FakeSluice(), plan(1), tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(DataError, match=r"cannot read the run .*run\.json"):
        run(FakeSluice(), plan(1), tmp_path)


def test_a_data_set_that_was_changed_is_not_mixed_in(tmp_path: Path) -> None:
    run(FakeSluice(), plan(1), tmp_path)
    other = Problem("t-0", "t", "other words", "0")
    with pytest.raises(SweepError, match="problem t-0 of t, but to other words"):
        run(FakeSluice(), plan([other]), tmp_path)
    corrected = replace(problem(0), answer="1")
    with pytest.raises(SweepError, match="another reference answer"):
        run(FakeSluice(), plan([corrected]), tmp_path)


def test_two_sweeps_do_not_write_one_run(tmp_path: Path) -> None:
    with (
        records.Writer(tmp_path / ROWS),
        pytest.raises(DataError, match=r"rows\.jsonl is being written by another process"),
    ):
        run(FakeSluice(), plan(1), tmp_path)


def test_a_full_disk_is_said_and_the_run_goes_on_later(tmp_path: Path) -> None:
    wanted = plan(8, budgets=(None,), settings=Settings(concurrency=1, max_tokens=50))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # a few rows
    try:
        with pytest.raises(DataError, match=r"cannot write .*rows\.jsonl: .*make room"):
            run(FakeSluice(), wanted, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    whole = records.read(tmp_path / ROWS)
    assert 0 < len(whole) < 8
    assert (tmp_path / ROWS).read_bytes().count(b"\n") == len(whole)
    fake = FakeSluice()
    rows = run(fake, wanted, tmp_path)
    assert rows[: len(whole)] == whole
    assert len(asked(fake)) == 8 - len(whole)


SWEEP = """
import asyncio, io, sys
from pathlib import Path
from rich.console import Console
from clients.sweep.runner import sweep
from tests.clients.sweeping import plan
from clients.sweep.plan import Settings

wanted = plan(200, settings=Settings(concurrency=8, max_tokens=50))
asyncio.run(sweep([sys.argv[1]], wanted, Path(sys.argv[2]), Console(file=io.StringIO())))
"""


def test_killed_at_any_point_nothing_is_repeated_and_nothing_lost(tmp_path: Path) -> None:
    fake = FakeSluice()
    kills = 0
    with serving(fake) as target:
        while True:
            before = len(records.read(tmp_path / ROWS))
            process = subprocess.Popen([sys.executable, "-c", SWEEP, target, str(tmp_path)])
            wanted = before + 90 + 7 * kills
            while process.poll() is None and len(lines(tmp_path / ROWS)) < wanted:
                time.sleep(0.002)
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills += 1
    assert process.returncode == 0
    assert kills >= 3
    rows = lines(tmp_path / ROWS)
    assert len(rows) == len(records.read(tmp_path / ROWS)) == 3 * 200  # none twice, none missing
    assert {row.segment for row in records.read(tmp_path / ROWS)} >= {0, 1}


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []
