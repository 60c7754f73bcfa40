"""The parts of an HTML page: text, tables, pictures. Everything is escaped."""

import base64
import html
from collections.abc import Iterable

from clients.report.gallery import Plate

STYLE = """
body { font: 15px/1.55 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2.6rem; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p { max-width: 60rem; }
figure { margin: .6rem 0; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right;
         white-space: nowrap; }
th { border-bottom: 2px solid #888; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
.one th:nth-child(2), .one td:nth-child(2) { text-align: right; }
.facts th { border-bottom: 1px solid #ddd; min-width: 7rem; }
.facts th, .facts td { text-align: left; white-space: normal; vertical-align: top; }
.notes { background: #fff8e6; border-left: 4px solid #D55E00; padding: .3rem 1rem; }
.missing { color: #555; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """A page of `parts`, which are HTML already; it needs no network and no files beside it."""
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>",
        *parts,
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def text(words: str) -> str:
    return html.escape(words, quote=True)


def heading(level: int, words: str) -> str:
    return f"<h{level}>{text(words)}</h{level}>"


def paragraph(words: str) -> str:
    return f"<p>{text(words)}</p>"


def notes(found: Iterable[str]) -> list[str]:
    """A box of paragraphs; nothing where there are none."""
    paragraphs = "".join(map(paragraph, found))
    return [f'<div class="notes">{paragraphs}</div>'] if paragraphs else []


def table(headings: Iterable[str], body: Iterable[Iterable[str]], *, names: int = 2) -> str:
    """A table whose first column, or two, are names and not numbers."""
    kind = ' class="one"' if names == 1 else ""
    head = "".join(f"<th>{text(words)}</th>" for words in headings)
    lines = ("".join(f"<td>{text(cell)}</td>" for cell in line) for line in body)
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table{kind}><tr>{head}</tr>{rows}</table></div>'


def facts(found: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{text(what)}</th><td>{text(how)}</td></tr>" for what, how in found)
    return f'<table class="facts">{rows}</table>'


def plate(found: Plate) -> str:
    """The figure, drawn into the page itself, or why there is none."""
    if found.picture is None:
        return f'<p class="missing">Not drawn ({text(found.alt)}): {text(found.reason)}.</p>'
    return f"<figure>{image(found.picture.svg, found.alt)}</figure>"


def image(svg: bytes, alt: str) -> str:
    """The picture, inside the page."""
    data = base64.b64encode(svg).decode("ascii")
    return f'<img alt="{text(alt)}" src="data:image/svg+xml;base64,{data}">'
