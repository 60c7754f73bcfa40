"""`sluice sweep` and `sluice score`: what they print, and what they leave."""

import json
from pathlib import Path

import grpc
import pytest

from clients import records
from tests.cli.command import sluice
from tests.clients.builders import row
from tests.clients.fake_sluice import Failure, FakeSluice, serving

# sweep


def sweep(target: str, out: Path, *more: str) -> tuple[int, str, str]:
    arguments = ["--server", target, "--out", str(out), "--budgets", "full,24", "--n", "2"]
    return sluice("sweep", "--datasets", "hop", *arguments, *more)


def test_sweep_writes_rows_and_a_report(tmp_path: Path) -> None:
    fake = FakeSluice()
    with serving(fake) as target:
        code, out, err = sweep(target, tmp_path / "run", "--policies", "window", "--samples", "2")
    assert code == 0, err
    assert "window" in out
    assert "report.html" in err
    rows = (tmp_path / "run" / "rows.jsonl").read_text().splitlines()
    assert len(rows) == 2 * 2 * 2
    assert {json.loads(row)["budget"] for row in rows} == {None, 24}
    assert (tmp_path / "run" / "script.png").exists()


def test_sweep_without_a_directory_starts_a_new_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(FakeSluice()) as target:
        code, _, err = sluice("sweep", "--datasets", "hop", "--server", target, "--n", "1")
    [directory] = (tmp_path / "runs").iterdir()
    assert code == 0
    assert directory.name in err
    assert (directory / "rows.jsonl").exists()


def test_sweep_of_a_file(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text('{"prompt": "so \\\\boxed{2}", "answer": 2}\n')
    with serving(FakeSluice()) as target:
        code, out, _ = sluice(
            "sweep", "--server", target, "--datasets", str(data), "--out", str(tmp_path / "run")
        )
    assert code == 0
    assert "mine" in out
    assert "100" in out


def test_sweep_goes_on_and_retries_what_failed(tmp_path: Path) -> None:
    fake = FakeSluice(fail=lambda r: Failure(grpc.StatusCode.INTERNAL) if r.cache_salt else None)
    with serving(fake) as target:
        code, _, err = sweep(target, tmp_path)
        assert code == 1
        assert "every request failed" in err
        fake.fail = lambda request: None
        fake.failures = [Failure(grpc.StatusCode.INTERNAL)] * 4
        code, _, err = sweep(target, tmp_path)
    assert code == 1
    assert "2 requests failed" in err


def test_sweep_says_what_the_server_lacks(tmp_path: Path) -> None:
    with serving(FakeSluice()) as target:
        code, _, err = sweep(target, tmp_path, "--policies", "h2o")
    assert code == 1
    assert err == "sluice: script has no policy 'h2o'; it has r_kv, window\n"


# score


def test_score_says_what_changed_and_writes_it_when_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    records.write(path, [row("a", text=r"\boxed{\sqrt{4}}", gold="2", correct=False), row("b")])
    code, out, err = sluice("score", str(tmp_path))
    assert code == 0, err
    assert "2 rows changed: 1 are right now, 1 no longer" in out
    assert [found.correct for found in records.read(path)] == [False, True]
    code, out, _ = sluice("score", str(path), "--write", "--show", "0")
    assert code == 0
    assert "2 rows replaced" in out
    assert [found.correct for found in records.read(path)] == [True, False]
    assert "0 rows changed" in sluice("score", str(path))[1]


def test_score_of_nothing_is_one_line(tmp_path: Path) -> None:
    code, out, err = sluice("score", str(tmp_path / "none.jsonl"))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("sluice: cannot read")
