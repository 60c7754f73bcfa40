"""`sluice report`: where it writes, what it prints, and one line where it cannot."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.clients.reports import a_run, made_up, skip_painting


@pytest.fixture(autouse=True)
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_painting(monkeypatch)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_a_run_is_reported_beside_its_rows(tmp_path: Path) -> None:
    directory = a_run(tmp_path / "one", made_up(("hop",)))
    code, out, err = run(directory)
    assert code == 0
    assert "pocket-llama: Pass@1 (%)" in out
    assert f"report: {directory / 'report.html'}" in err
    assert (directory / "report.html").exists()


def test_several_runs_become_one_report(tmp_path: Path) -> None:
    one = a_run(tmp_path / "one", made_up(("hop",)))
    two = a_run(tmp_path / "two", made_up(("hop",), model="pocket-qwen"))
    code, out, _ = run(one, two, "--out", tmp_path / "out", "--baseline-policy", "window")
    assert code == 0
    assert "pocket-llama" in out
    assert "pocket-qwen" in out
    assert (tmp_path / "out" / "pocket-qwen.png").exists()
    assert not (one / "report.html").exists()
    assert "from window excludes 0" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{tmp}/none"], "holds no run"),
        (["{tmp}/one", "{tmp}/two"], "needs a directory of its own; give --out DIR"),
        (["{tmp}/one", "--baseline-policy", "h2o"], "no row has the policy 'h2o'"),
        (["{tmp}/one", "--out", "{tmp}/one/run.json"], "cannot write a report to"),
        (["{tmp}/one", "{tmp}/other", "--out", "{tmp}/out"], "not the same answer"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    a_run(tmp_path / "one", made_up(("hop",)))
    a_run(tmp_path / "two", made_up(("memo",)))
    a_run(tmp_path / "other", made_up(("hop",)))
    rows = tmp_path / "other" / "rows.jsonl"
    rows.write_text(rows.read_text().replace('"correct":true', '"correct":false', 1))
    code, out, err = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert (code, out) == (1, "")
    assert complaint in err
    assert err.count("\n") == 1
