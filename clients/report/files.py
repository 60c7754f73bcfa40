"""Writes a report: the page, the pictures, and exactly the numbers drawn."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from clients.errors import DataError
from clients.report import gallery, page, results
from clients.report.differences import Compared
from clients.report.findings import Findings, find
from clients.report.numbers import Line, Summary, lines
from clients.report.sources import Source
from clients.sweep.run import Manifest

PAGE, NUMBERS_JSON, NUMBERS_CSV = "report.html", "cells.json", "cells.csv"
DIFFERENCES_CSV, RESULTS = "differences.csv", "lm_eval"


def write_report(
    *runs: Path, out: Path | None = None, baseline: str | None = None
) -> list[Summary]:
    """Writes one report of the runs in the directories `runs` into `out`.

    A single run may leave out `out`: its report goes beside its rows. Policies are compared with
    `baseline`, or the server's default. Returns the numbers drawn, one summary per cell.

    Raises:
        DataError: a directory holds no run or no answers, two contradict each other, several come
            without `out`, which cannot be made, or no row has the policy `baseline`.
    """
    if out is None and len(runs) != 1:
        raise DataError(
            f"a report of {len(runs)} runs needs a directory of its own; give --out DIR"
        )
    findings = find(runs, baseline)
    directory = out or runs[0]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write a report to {directory}: {error}") from error
    _write_numbers(directory, findings)
    _write_results(directory / RESULTS, findings)
    shared = gallery.shared(findings)
    own = {model: gallery.of(findings, model) for model in findings.models}
    for plate in (*shared, *(plate for plates in own.values() for plate in plates)):
        path = directory / f"{plate.name}.png"
        if plate.picture is None:
            path.unlink(missing_ok=True)  # of an earlier report, which would seem to belong to this
        else:
            path.write_bytes(plate.picture.png)
    (directory / PAGE).write_text(page.render(findings, shared, own), encoding="utf-8")
    return findings.summaries


def _write_numbers(directory: Path, findings: Findings) -> None:
    manifests = [source.manifest for source in findings.sources]
    _write_json(directory / NUMBERS_JSON, {"cells": findings.summaries, "runs": manifests})
    counts = sorted({k for summary in findings.summaries for k in summary.pass_at_k})
    flat = [_flat(summary, counts) for summary in findings.summaries]
    _write_csv(directory / NUMBERS_CSV, flat[0], (line.values() for line in flat))
    compared = (msgspec.structs.astuple(c) for c in findings.compared)
    _write_csv(directory / DIFFERENCES_CSV, Compared.__struct_fields__, compared)


def _flat(summary: Summary, counts: Sequence[int]) -> dict[str, Any]:
    """The summary with a column for each k of pass@k."""
    fields: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(summary).items():
        if name == "pass_at_k":
            fields |= {f"pass_at_{k}": value.get(k) for k in counts}
        else:
            fields[name] = value
    return fields


def _write_results(directory: Path, findings: Findings) -> None:
    """One file per model, budget and policy, in the format of lm-evaluation-harness."""
    names = gallery.file_names(findings.models)
    for line in lines(findings.answered):
        manifest = _measured(findings.sources, line)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"results_{names[line.model]}_{_setting(line)}.json"
        _write_json(path, results.document(line, manifest))


def _measured(sources: Sequence[Source], line: Line) -> Manifest:
    """Of the first run that has rows of the line."""
    cells = {cell.cell for cell in line.cells.values()}
    return next(s.manifest for s in sources if any(row.cell in cells for row in s.rows))


def _setting(line: Line) -> str:
    return "full" if line.budget is None else f"{line.budget}_{line.policy}"


def _write_json(path: Path, document: object) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def _write_csv(path: Path, headings: Iterable[str], lines: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(headings)
        writer.writerows(lines)
