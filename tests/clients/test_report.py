"""Reports: the numbers, the files, and that the page needs nothing else."""

import csv
import io
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from clients import statistics
from clients.errors import DataError
from clients.records import Record
from clients.report import figure, numbers, table, words
from clients.report.files import NUMBERS_CSV, NUMBERS_JSON, PAGE, write_report
from clients.report.panel import Frame
from clients.sweep.plan import Settings
from clients.sweep.run import read_manifest
from tests.clients.builders import failed, row
from tests.clients.reports import a_run, made_up

NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
PNG = b"\x89PNG\r\n\x1a\n"


def test_a_summary_is_what_the_formulas_say() -> None:
    rows = made_up()
    summaries = numbers.summarise(rows)
    assert len(summaries) == 10
    for summary in summaries:
        own = [r for r in rows if r.cell == summary.cell]
        assert summary.n == summary.problems == 4
        assert summary.pass_at_1 == statistics.pass_at_1(own)
        assert summary.stderr == statistics.standard_error(own)
        assert summary.tokens_per_second == 400 / 4
        assert summary.share_never_reached == (1.0 if summary.budget is None else 0.25)
        assert summary.share_evicted == (0.0 if summary.budget is None else 0.75)
        assert summary.kv_tokens_evicted == (0 if summary.budget is None else 96)
        assert (summary.difference is None) == (summary.budget is None)
    tight = next(s for s in summaries if s.budget == 96 and s.policy == "r_kv")
    assert tight.difference == -0.5


def test_outcomes_are_counted_apart() -> None:
    rows = [
        row("a"),
        row("b", status="truncated", correct=False),
        row("c", status="no_answer", correct=False),
        row("d", status="timeout", correct=False),
        failed("e"),
    ]
    [summary] = numbers.summarise(rows)
    counts = (summary.truncated, summary.no_answer, summary.unscored, summary.errors, summary.n)
    assert counts == (1, 1, 1, 1, 4)
    assert summary.pass_at_1 == 0.25


def test_lines_put_tasks_side_by_side() -> None:
    lines = numbers.lines(numbers.summarise(made_up()))
    order = [(line.budget, line.policy) for line in lines]
    assert order == [
        (None, None),
        (192, "r_kv"),
        (96, "r_kv"),
        (192, "window"),
        (96, "window"),
    ]
    assert [line.pass_at_1 for line in lines] == [1.0, 0.75, 0.5, 0.5, 0.25]
    assert lines[1].tokens_per_second == 800 / 8
    one = lines[1].cells["hop"].stderr or 0.0
    assert lines[1].stderr == pytest.approx(one / 2**0.5)


def test_no_mean_over_some_of_the_tasks() -> None:
    rows = [r for r in made_up() if not (r.task == "memo" and r.budget == 96)]
    lines = numbers.lines(numbers.summarise(rows))
    assert [line.pass_at_1 is None for line in lines] == [line.budget == 96 for line in lines]


def test_the_files_are_there(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", made_up() + made_up(model="pocket-qwen"))
    write_report(run, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {NUMBERS_CSV, NUMBERS_JSON, PAGE, "pocket-llama.png", "pocket-qwen.png"}
    assert (tmp_path / "out" / "pocket-llama.png").read_bytes().startswith(PNG)


def test_json_and_csv_are_exactly_the_numbers_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[numbers.Summary] = []
    real = figure.render

    def spy(summaries: list[numbers.Summary], caption: str) -> figure.Picture:
        drawn.extend(summaries)
        return real(summaries, caption)

    monkeypatch.setattr(figure, "render", spy)
    run = a_run(tmp_path, made_up())
    returned = write_report(run)
    document = json.loads((run / NUMBERS_JSON).read_text())
    as_json = [{f: getattr(s, f) for f in s.__struct_fields__} for s in drawn]
    assert document["cells"] == as_json
    assert returned == drawn
    with (run / NUMBERS_CSV).open(newline="") as file:
        for line, cell in zip(csv.DictReader(file), as_json, strict=True):
            assert line == {k: "" if v is None else str(v) for k, v in cell.items()}
    assert document["run"]["settings"]["concurrency"] == Settings.concurrency


def test_the_figure_draws_these_numbers() -> None:
    summaries = numbers.summarise(made_up())
    axes = figure.draw(summaries, "caption").axes
    bars, speeds = axes[:2]
    by_height = sorted(round(patch.get_height()) for patch in bars.patches)  # type: ignore[attr-defined]
    assert by_height == [25, 50, 50, 75, 100]
    assert bars.get_ylim()[0] == 0
    assert [label.get_text() for label in bars.get_xticklabels()] == ["96", "192", "full"]
    values = [text.get_text() for text in speeds.texts]
    assert sorted(values, key=int) == ["50", "75", "100"]
    assert list(speeds.lines[0].get_ydata()) == [100.0, 100.0, 100.0]
    assert speeds.get_ylim()[0] == 0


def test_the_same_rows_give_the_same_picture() -> None:
    summaries = numbers.summarise(made_up(("hop",)))
    assert figure.render(summaries, "c") == figure.render(summaries, "c")


@pytest.mark.parametrize(
    "rows",
    [
        made_up(("a",)),
        [r for r in made_up(("a",)) if r.budget is None],
        [r for r in made_up(("a",)) if r.policy == "window"],
        made_up(("a", "b", "c")),
        made_up(("a", "b", "c", "d", "e")),
        [row("only", end=0.0)],
    ],
    ids=["one task", "only full", "only one policy", "three tasks", "five tasks", "one answer"],
)
def test_every_shape_of_run_can_be_drawn(rows: list[Record]) -> None:
    assert figure.render(numbers.summarise(rows), "caption").png.startswith(PNG)


def test_bars_of_several_policies_do_not_overlap() -> None:
    frame = Frame((96, None), ("a", "b", "c", "d"), 1.0)
    spans = []
    for policy in frame.policies:
        [summary] = numbers.summarise([row(budget=96, policy=policy)])
        middle, width = frame.bar(summary)
        spans.append((middle - width / 2, middle + width / 2))
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    assert spans[0][0] > -0.5
    assert spans[-1][1] < 0.5


def test_the_caption_is_honest(tmp_path: Path) -> None:
    run = a_run(tmp_path, [*made_up(), failed("x", model="pocket-llama", task="hop", segment=1)])
    manifest = read_manifest(run / "run.json")
    caption = words.caption(write_report(run), manifest)
    assert "clustered by problem" in caption
    assert "wall clock" in caption
    assert words.SYNTHETIC in caption
    assert "1 cells were interrupted" in caption
    assert "1 requests failed" in caption


def test_real_problem_sets_carry_no_note_on_synthetic_ones() -> None:
    assert words.notes(numbers.summarise(made_up(("aime24",)))) == []


def test_the_table_for_the_terminal() -> None:
    console = Console(file=io.StringIO(), width=120)
    table.show(numbers.summarise(made_up()), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]
    assert lines[1] == ["budget", "policy", "hop", "memo", "mean", "tok/s", "evicted"]
    assert lines[3] == ["full", "-", "100±0", "100±0", "100±0", "100", "0"]
    assert lines[4] == ["192", "r_kv", "75±25", "75±25", "75±18", "100", "192"]


def test_nothing_to_report_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the run"):
        write_report(tmp_path / "none")
    with pytest.raises(DataError, match="every request failed"):
        write_report(a_run(tmp_path / "failed", [failed("a")]))
