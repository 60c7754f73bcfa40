"""The page of a report: complete in itself, and honest about how it was measured."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from clients.report import words
from clients.report.files import PAGE, write_report
from clients.sweep.plan import Settings
from tests.clients.reports import a_run, made_up, skip_painting

NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


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
    assert len(page.found) == 6, "mean, policies and four figures of the model"
    for link in page.found:
        kind, _, data = link.partition(",")
        assert kind == "data:image/svg+xml;base64"
        svg = base64.b64decode(data).decode()
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert all(inner.startswith("#") for inner in re.findall(r'href="([^"]*)"', svg))
        assert set(re.findall(r"https?://[^\"<]*", svg)) <= NAMESPACES
    assert "url(" not in text
    assert "@import" not in text
    assert str(tmp_path) not in text


def test_the_page_says_how_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_painting(monkeypatch)
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
        "100.0±0.0 (0/0/0)",
        "window",
        "a star where the paired interval of the difference from r_kv excludes 0",
        "Each budget minus the whole cache.",
        "Each budget minus the next larger one.",
    ]:
        assert said in page.text, said


def test_names_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_painting(monkeypatch)
    write_report(a_run(tmp_path, made_up(("<b>task</b>",), model="org/<model>")))
    assert "<b>task" not in (tmp_path / PAGE).read_text()
    assert (tmp_path / "org-model.png").exists()


def test_what_cannot_be_drawn_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_painting(monkeypatch)
    only = [r for r in made_up(("hop",)) if r.budget is None]
    write_report(a_run(tmp_path, only))
    page = References()
    page.feed((tmp_path / PAGE).read_text())
    assert len(page.found) == 2, "by task, and lengths"
    for reason in [
        "a single task is its own mean",
        "fewer than two policies",
        "it takes two budgets",
        "neither the whole cache nor a second budget",
    ]:
        assert reason in page.text, reason
    assert not (tmp_path / "mean.png").exists()


def test_every_run_is_described_and_differing_ones_are_no_fair_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_painting(monkeypatch)
    hop = a_run(tmp_path / "one", made_up(("hop",)), Settings(concurrency=48))
    memo = a_run(tmp_path / "two", made_up(("memo",)), Settings(concurrency=8))
    write_report(hop, memo, out=tmp_path / "out")
    page = References()
    page.feed((tmp_path / "out" / PAGE).read_text())
    assert page.text.count("started 20") == 2
    assert "The runs of pocket-llama differ in settings" in page.text
    assert "concurrency 48" in page.text
    assert "concurrency 8," in page.text
    write_report(hop, hop, out=tmp_path / "out")
    assert "differ in settings" not in (tmp_path / "out" / PAGE).read_text()


def test_the_same_rows_give_the_same_page(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", [r for r in made_up(("hop",)) if r.policy != "window"])
    pages = []
    for name in ("first", "second"):
        write_report(run, out=tmp_path / name)
        pages.append((tmp_path / name / PAGE).read_bytes())
    assert pages[0] == pages[1]
