"""The comparison of policies: what is stored and where it is published."""

from pathlib import Path

import pytest

from benchmarks.policies import BEGIN, END, Grid, publish, row
from clients.report.numbers import summarise
from clients.workloads.pocket import problems
from tests.clients.test_comparison import made_up


def test_a_stored_row_has_every_problems_mark_and_no_speed() -> None:
    rows = made_up()
    summary = next(
        s for s in summarise(rows) if (s.policy, s.budget, s.task) == ("r_kv", 96, "hop")
    )
    stored = row(summary, rows)
    marks = stored["marks"]
    odd = sorted(str(i) for i in range(1, 20, 2))  # the problems of "hop", by id
    assert marks == [float(int(name) < 10) for name in odd]
    assert stored["pass_at_1"] == 0.5
    assert "tokens_per_second" not in stored


def test_publishing_replaces_what_stands_between_the_marks(tmp_path: Path) -> None:
    document = tmp_path / "policies.md"
    document.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nthe end\n")
    for _ in range(2):
        publish(made_up(), document)
        text = document.read_text()
        assert text.startswith(f"# Title\n\n{BEGIN}\n")
        assert text.endswith(f"{END}\n\nthe end\n")
        assert text.count("### pocket-llama") == 1
        assert "old" not in text
    assert document.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    document.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the marks"):
        publish(made_up(), document)


def test_its_problems_are_not_those_of_the_demo() -> None:
    """Policies were chosen on the split `tune`; the demo shows the first seeds of `eval`."""
    grid = Grid()
    for task in grid.tasks:
        own = {p.id for p in problems(task, grid.problems, grid.seed)}
        tuned = {p.id for p in problems(task, 200, 0, "tune")}
        assert len(own) == 100
        assert not own & tuned
