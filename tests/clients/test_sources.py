"""Several runs as one: nothing is counted twice, and contradictions are named."""

from pathlib import Path

import pytest

from clients import statistics
from clients.errors import DataError
from clients.report.sources import load, merge, of_model
from tests.clients.builders import row
from tests.clients.reports import a_run, made_up


def test_rows_of_several_runs_come_together(tmp_path: Path) -> None:
    one = a_run(tmp_path / "one", made_up(("hop",)))
    two = a_run(tmp_path / "two", made_up(("memo",), model="pocket-qwen"))
    sources = load([one, two])
    assert merge(sources) == [*made_up(("hop",)), *made_up(("memo",), model="pocket-qwen")]
    assert [source.directory for source in of_model(sources, "pocket-qwen")] == [two]


def test_the_same_answer_counts_once(tmp_path: Path) -> None:
    one = a_run(tmp_path / "one", made_up())
    copy = a_run(tmp_path / "copy", made_up())
    assert merge(load([one, copy])) == made_up()
    assert len(load([one, tmp_path / "copy" / ".." / "one"])) == 1


def test_two_answers_to_the_same_question_are_an_error_that_names_both(tmp_path: Path) -> None:
    one = a_run(tmp_path / "one", [row("a", correct=True)])
    two = a_run(tmp_path / "two", [row("a", correct=False)])
    with pytest.raises(DataError, match=r"one and .*two both hold m t full, problem a, sample 0"):
        merge(load([one, two]))


def test_parts_of_a_cell_add_up_in_time(tmp_path: Path) -> None:
    """Each run has a clock of its own: 4 + (2 + 3) seconds, not the longest of them."""
    one = a_run(tmp_path / "one", [row("a", end=4.0)])
    two = a_run(tmp_path / "two", [row("b", end=2.0), row("c", segment=1, end=3.0)])
    rows = merge(load([one, two]))
    assert [r.segment for r in rows] == [0, 1, 2]
    assert statistics.wall_seconds(rows) == 9.0


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no run.*`sluice sweep`"):
        load([tmp_path])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DataError, match="cannot read the run"):
        load([tmp_path])
