"""Reports: the numbers, the files, and that the page needs nothing else."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from clients import statistics
from clients.errors import DataError
from clients.records import Record
from clients.report import figure, numbers, table, words
from clients.report.files import NUMBERS_CSV, NUMBERS_JSON, PAGE, picture_name, write_report
from clients.report.panel import Frame
from clients.sweep.plan import Settings
from clients.sweep.run import Run, ServerFacts, read_manifest
from tests.clients.builders import failed, row

NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
PNG = b"\x89PNG\r\n\x1a\n"


def made_up(tasks: tuple[str, ...] = ("hop", "memo"), model: str = "pocket-llama") -> list[Record]:
    """Four problems per cell; the tighter the budget, the fewer are right."""
    rows = []
    for task in tasks:
        for budget, policy, right in [
            (None, None, 4),
            (96, "r_kv", 2),
            (96, "window", 1),
            (192, "r_kv", 3),
            (192, "window", 2),
        ]:
            for index in range(4):
                touched = budget is not None and index > 0
                changes: dict[str, Any] = {
                    "model": model,
                    "task": task,
                    "budget": budget,
                    "policy": policy,
                    "correct": index < right,
                    "kv_tokens_peak": budget if touched and budget else 50,
                    "kv_tokens_evicted": 32 if touched else 0,
                    "eviction_rounds": 2 if touched else 0,
                    "pinned_tokens": 16 if budget else 0,
                    "recent_tokens": 12 if budget else 0,
                    "reclaim_tokens": 16 if budget else 0,
                    "end": 1.0 + index,
                    "completion_tokens": 100,
                }
                rows.append(row(f"{task}-{index}", **changes))
    return rows


def facts(model: str) -> ServerFacts:
    return ServerFacts(
        model=model,
        architecture="LlamaForCausalLM",
        device="cpu",
        dtype="float32",
        kernels="numba",
        block_size=16,
        total_blocks=288,
        kv_bytes_per_token=2048,
        max_running=48,
        chat=True,
        default_policy="r_kv",
    )


def a_run(directory: Path, rows: list[Record], settings: Settings = Settings()) -> Path:  # noqa: B008
    with Run(directory, settings) as run:
        for model in dict.fromkeys(row.model for row in rows):
            run.add_server(facts(model))
        for found in rows:
            run.add(found)
    return directory


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


class References(HTMLParser):
    """Everything a browser would fetch, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "iframe", "object", "embed", "base"}:
            self.found.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "srcset", "data", "poster", "action"}:
                self.found.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    write_report(a_run(tmp_path, made_up()))
    text = (tmp_path / PAGE).read_text()
    page = References()
    page.feed(text)
    assert len(page.found) == 1
    kind, _, data = page.found[0].partition(",")
    assert kind == "data:image/svg+xml;base64"
    svg = base64.b64decode(data).decode()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', svg))
    assert set(re.findall(r"https?://[^\"<]*", svg)) <= NAMESPACES
    assert "url(" not in text
    assert "@import" not in text
    assert str(tmp_path) not in text


def test_the_page_says_how_it_was_measured(tmp_path: Path) -> None:
    run = a_run(tmp_path, made_up(), Settings(concurrency=48, temperature=0.0, max_tokens=448))
    write_report(run)
    page = References()
    page.feed((run / PAGE).read_text())
    for said in [
        words.SYNTHETIC,
        "n = 4 problems per cell",
        "greedy decoding, at most 448 new tokens",
        "48 requests in flight",
        "288 blocks of 16 tokens",
        "float32 on cpu, numba kernels",
        "grpcio",
        "100±0",
        "window",
    ]:
        assert said in page.text, said


def test_names_are_escaped(tmp_path: Path) -> None:
    write_report(a_run(tmp_path, made_up(("<b>task</b>",), model="org/<model>")))
    assert "<b>task" not in (tmp_path / PAGE).read_text()
    assert (tmp_path / picture_name("org/<model>")).name == "org-model.png"
    assert (tmp_path / "org-model.png").exists()


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
