"""Reports: the numbers, the files, and that the page needs nothing else."""

import csv
import io
import json
import re
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from clients import statistics
from clients.errors import DataError
from clients.records import Record
from clients.report import captions, figure, numbers, table, words
from clients.report.files import (
    DIFFERENCES_CSV,
    NUMBERS_CSV,
    NUMBERS_JSON,
    PAGE,
    RESULTS,
    write_report,
)
from clients.report.panel import Frame
from clients.report.sheet import Picture
from clients.report.sources import load, merge
from clients.sweep.plan import Settings
from tests.clients.builders import failed, row
from tests.clients.reports import a_run, made_up, skip_painting

KINDS = ("-frontier", "-differences", "-lengths")
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
    shares = (summary.share_truncated, summary.share_no_answer, summary.share_unscored)
    assert shares == (0.25, 0.25, 0.25)
    assert summary.pass_at_1 == pytest.approx(1 / 3), "one of the three with a verdict"
    assert "1 answers" in words.notes([summary])[0]
    assert table.counted_score(summary) == "33.3±33.3 (1/1/1)"


def test_several_samples_are_summarised() -> None:
    rows = [
        row(problem, sample=sample, correct=sample < right, completion_tokens=10 * (sample + 1))
        for problem, right in (("a", 5), ("b", 1))
        for sample in range(5)
    ]
    [summary] = numbers.summarise(rows)
    assert (summary.n, summary.problems, summary.samples) == (10, 2, 5)
    assert summary.pass_at_k == {k: statistics.pass_at_k(rows, k) for k in (2, 4, 5)}
    assert summary.pass_at_k[5] == 1.0
    assert summary.majority == 0.5
    tokens = [row.completion_tokens for row in rows]
    assert summary.completion_tokens_median == np.median(tokens)
    assert summary.completion_tokens_p90 == np.percentile(tokens, 90)
    [once] = numbers.summarise([row("a"), row("b")])
    assert (once.pass_at_k, once.majority) == ({}, None)
    headings, body = table.samples_of([summary])
    assert headings[2:] == ["pass@1", "pass@2", "pass@4", "pass@5", "majority@5"]
    assert body == [["full", "-", "60.0±40.0", "70.0", "90.0", "100.0", "50.0"]]
    assert table.samples_of([once]) == ([], [])


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


def test_the_files_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_painting(monkeypatch)
    run = a_run(tmp_path / "run", made_up() + made_up(model="pocket-qwen"))
    out = tmp_path / "out"
    write_report(run, out=out)
    pictures = {"mean.png", "policies.png"}
    for model in ("pocket-llama", "pocket-qwen"):
        pictures |= {f"{model}{kind}.png" for kind in ("", *KINDS)}
    data = {NUMBERS_CSV, NUMBERS_JSON, DIFFERENCES_CSV, RESULTS}
    assert {path.name for path in out.iterdir()} == {PAGE, *data, *pictures}
    assert len(list((out / RESULTS).iterdir())) == 10


def test_a_picture_of_an_earlier_report_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_painting(monkeypatch)
    write_report(a_run(tmp_path / "two", made_up()), out=tmp_path / "out")
    assert (tmp_path / "out" / "policies.png").exists()
    one = [r for r in made_up() if r.policy != "window"]
    write_report(a_run(tmp_path / "one", one), out=tmp_path / "out")
    assert not (tmp_path / "out" / "policies.png").exists()


def test_json_and_csv_are_exactly_the_numbers_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_painting(monkeypatch)
    drawn: list[numbers.Summary] = []
    real = figure.render

    def spy(summaries: list[numbers.Summary], caption: str) -> Picture:
        drawn.extend(summaries)
        return real(summaries, caption)

    monkeypatch.setattr(figure, "render", spy)
    again = [msgspec.structs.replace(r, sample=1) for r in made_up()]
    run = a_run(tmp_path, [*made_up(), *again])
    returned = write_report(run)
    document = json.loads((run / NUMBERS_JSON).read_text())
    as_json = [msgspec.to_builtins(s, str_keys=True) for s in drawn]
    assert document["cells"] == as_json
    assert returned == drawn
    with (run / NUMBERS_CSV).open(newline="") as file:
        for line, cell in zip(csv.DictReader(file), as_json, strict=True):
            flat = {f"pass_at_{k}": v for k, v in cell.pop("pass_at_k").items()} | cell
            assert line == {k: "" if v is None else str(v) for k, v in flat.items()}
    assert document["runs"][0]["settings"]["concurrency"] == Settings.concurrency


def test_the_figure_draws_these_numbers() -> None:
    summaries = numbers.summarise(made_up())
    axes = figure.draw(summaries, "caption").figure.axes
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
    sources = load([run])
    caption = captions.tasks(numbers.summarise(merge(sources)), sources)
    assert "clustered by problem" in caption
    assert "wall clock" in caption
    assert words.SYNTHETIC in caption
    assert "1 cells were measured in parts" in caption
    assert "1 requests failed" in caption


def test_real_problem_sets_carry_no_note_on_synthetic_ones() -> None:
    assert words.notes(numbers.summarise(made_up(("aime24",)))) == []


def test_the_table_for_the_terminal() -> None:
    console = Console(file=io.StringIO(), width=120)
    table.show(numbers.summarise(made_up()), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]
    without = ["truncated", "no answer", "unscored"]
    assert lines[1] == ["budget", "policy", "hop", "memo", "mean", "tok/s", *without, "evicted"]
    whole = ["100.0±0.0"] * 3
    assert lines[3] == ["full", "-", *whole, "100", "0", "0", "0", "0"]
    marks = ["75.0±25.0", "75.0±25.0", "75.0±17.7"]
    assert lines[4] == ["192", "r_kv", *marks, "100", "0", "0", "0", "192"]


def test_nothing_to_report_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none holds no run \(there is no run.json\)"):
        write_report(tmp_path / "none")
    failing = a_run(tmp_path / "failed", [failed("a")])
    with pytest.raises(DataError, match="every request failed"):
        write_report(failing)
    with pytest.raises(DataError, match="there are no rows yet"):
        write_report(a_run(tmp_path / "empty", []))
    with pytest.raises(DataError, match="2 runs needs a directory of its own"):
        write_report(failing, failing)


def test_an_unknown_baseline_is_named(tmp_path: Path) -> None:
    run = a_run(tmp_path, made_up(("hop",)))
    with pytest.raises(DataError, match=r"no row has the policy 'h2o'.*r_kv, window"):
        write_report(run, baseline="h2o")
