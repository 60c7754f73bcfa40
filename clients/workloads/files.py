"""Data sets as plain files: JSONL, one object per line, or CSV with a heading."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from clients.errors import DataError
from clients.workloads import rows
from clients.workloads.problem import Problem

SUFFIXES = (".jsonl", ".csv")
Numbered = Iterator[tuple[int, dict[str, Any]]]


def load(path: Path, n: int | None = None, task: str | None = None) -> list[Problem]:
    """The first `n` problems of the file, or all; the task is named after the file unless told.

    Problems without an id get the number of their line.

    Raises:
        DataError: the file is missing or empty, or a line cannot be used; names the line.
    """
    task = task or path.stem
    found: dict[str, Problem] = {}
    for number, row in _rows(path):
        if n is not None and len(found) == n:
            break
        problem = rows.problem(row, f"{path}:{number}", task, number)
        if problem.id in found:
            raise DataError(f"{path}:{number}: the id {problem.id!r} is used twice")
        found[problem.id] = problem
    if not found:
        raise DataError(f"{path} holds no problems")
    return list(found.values())


def _rows(path: Path) -> Numbered:
    if path.suffix not in SUFFIXES:
        raise DataError(f"cannot read the data set {path}: want a file in {' or '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the data set {path}: {error}") from error
    return _csv(text, path) if path.suffix == ".csv" else _jsonl(text, path)


def _jsonl(text: str, path: Path) -> Numbered:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise DataError(f"{where}: not JSON ({error}); each line must be one object") from error
        if not isinstance(row, dict):
            got = type(row).__name__
            raise DataError(f"{where}: got a JSON {got}; each line must be an object")
        yield number, row


def _csv(text: str, path: Path) -> Numbered:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        for row in reader:
            if None in row:
                raise DataError(f"{path}:{reader.line_num}: more cells than the heading has")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}: not CSV after line {reader.line_num} ({error})") from error
