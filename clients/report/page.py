"""The report as one HTML file that needs nothing else: no network, no files beside it."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

from clients.report import table, words
from clients.report.figure import Picture
from clients.report.numbers import Summary, models_of
from clients.sweep.run import Manifest

STYLE = """
body { font: 15px/1.55 system-ui, sans-serif; color: #222; max-width: 68rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
img { width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right;
         white-space: nowrap; }
th { border-bottom: 2px solid #888; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
.facts th, .facts td { text-align: left; white-space: normal; vertical-align: top; }
.notes { background: #fff8e6; border-left: 4px solid #D55E00; padding: .3rem 1rem; }
"""


def render(
    summaries: Sequence[Summary], manifest: Manifest, pictures: Mapping[str, Picture]
) -> str:
    """The page of one run; `pictures` by model."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Sluice: {_text(manifest.run)}</title><style>{STYLE}</style></head><body>",
        "<h1>Accuracy and throughput against the KV budget</h1>",
        "<p>Every request chose its own KV budget: the most tokens its sequence may hold in the "
        "cache. All numbers were measured through the gRPC service.</p>",
        *_notes(summaries),
        *(part for model in models_of(summaries) for part in _model(model, summaries, pictures)),
        "<h2>How it was measured</h2>",
        _facts(words.method(summaries, manifest)),
        *_protection(summaries),
        "<h2>Reading it</h2>",
        "<p>Differences between budgets are best judged by the paired interval in cells.csv and "
        "cells.json (difference, difference_low, difference_high: against the whole cache, "
        "bootstrap over problems), not by comparing error bars. rows.jsonl holds every answer.</p>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _notes(summaries: Sequence[Summary]) -> list[str]:
    paragraphs = "".join(f"<p>{_text(note)}</p>" for note in words.notes(summaries))
    return [f'<div class="notes">{paragraphs}</div>'] if paragraphs else []


def _model(model: str, summaries: Sequence[Summary], pictures: Mapping[str, Picture]) -> list[str]:
    headings, body = table.cells_of([s for s in summaries if s.model == model])
    data = base64.b64encode(pictures[model].svg).decode("ascii")
    alt = f"{model}: Pass@1 as bars and tokens per second as a line against the KV budget"
    return [
        f"<h2>{_text(model)}</h2>",
        f'<img alt="{_text(alt)}" src="data:image/svg+xml;base64,{data}">',
        "<p>Pass@1 in per cent ± standard error clustered by problem; tok/s: delivered tokens per "
        "wall-clock second; after it totals over the tasks, evicted in KV tokens.</p>",
        _table(headings, body),
    ]


def _protection(summaries: Sequence[Summary]) -> list[str]:
    found = words.protection(summaries)
    if not found:
        return []
    headings = ["policy", "budget", "oldest tokens pinned (mean)", "newest tokens", "per round"]
    return [
        "<h2>What is never evicted</h2>",
        "<p>Tokens that each policy must keep, and how many one eviction round frees. The pinned "
        "ones are the prompt.</p>",
        _table(headings, [[str(cell) for cell in line] for line in found]),
    ]


def _table(headings: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings)
    lines = ("".join(f"<td>{_text(cell)}</td>" for cell in line) for line in body)
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{_text(what)}</th><td>{_text(how)}</td></tr>" for what, how in facts)
    return f'<table class="facts">{rows}</table>'


def _text(text: str) -> str:
    return html.escape(text, quote=True)
