"""Writes a report: the page, one picture per model, and exactly the numbers drawn."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from clients import records
from clients.errors import DataError
from clients.report import figure, page, words
from clients.report.numbers import Summary, models_of, summarise
from clients.sweep.run import MANIFEST, ROWS, Manifest, read_manifest

PAGE, NUMBERS_JSON, NUMBERS_CSV = "report.html", "cells.json", "cells.csv"


def write_report(run: Path, out: Path | None = None) -> list[Summary]:
    """Writes the report of the run in directory `run` into `out` (default: beside its rows).

    Returns the numbers drawn, one summary per cell.

    Raises:
        DataError: the directory holds no run, or its files cannot be read.
    """
    manifest = read_manifest(run / MANIFEST)
    summaries = summarise(records.read(run / ROWS))
    drawable = [s for s in summaries if s.n]
    if not drawable:
        raise DataError(f"{run / ROWS} holds no answers to report on; every request failed")
    directory = out or run
    directory.mkdir(parents=True, exist_ok=True)
    _write_numbers(directory, summaries, manifest)
    pictures = {}
    for model in models_of(drawable):
        own = [s for s in drawable if s.model == model]
        pictures[model] = figure.render(own, words.caption(own, manifest))
        (directory / picture_name(model)).write_bytes(pictures[model].png)
    text = page.render(drawable, manifest, pictures)
    (directory / PAGE).write_text(text, encoding="utf-8")
    return summaries


def picture_name(model: str) -> str:
    """File name of a model's picture."""
    return f"{re.sub('[^A-Za-z0-9._-]+', '-', model).strip('-.') or 'model'}.png"


def _write_numbers(directory: Path, summaries: Sequence[Summary], manifest: Manifest) -> None:
    document = {"cells": summaries, "run": manifest}
    data = msgspec.json.format(msgspec.json.encode(document), indent=2)
    (directory / NUMBERS_JSON).write_bytes(data + b"\n")
    with (directory / NUMBERS_CSV).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Summary.__struct_fields__)
        writer.writerows(msgspec.structs.astuple(summary) for summary in summaries)
