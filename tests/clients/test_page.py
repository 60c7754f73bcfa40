"""The page of a report: complete in itself, and honest about how it was measured."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from clients.report import words
from clients.report.files import PAGE, picture_name, write_report
from clients.sweep.plan import Settings
from tests.clients.reports import a_run, made_up

NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
PNG = b"\x89PNG\r\n\x1a\n"


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
