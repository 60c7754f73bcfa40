"""What a report is about: the rows of one run or several, and how each was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from clients import records
from clients.errors import DataError
from clients.records import Cell, Record
from clients.sweep.run import MANIFEST, ROWS, Manifest, read_manifest


@dataclass(frozen=True)
class Source:
    """One run."""

    directory: Path
    manifest: Manifest
    rows: list[Record]

    @property
    def models(self) -> list[str]:
        """The models that it has rows of."""
        return list(dict.fromkeys(row.model for row in self.rows))


def load(directories: Sequence[Path]) -> list[Source]:
    """Reads the runs, each directory once.

    Raises:
        DataError: a directory holds no run, or its files cannot be read.
    """
    found = {}
    for directory in directories:
        if not (directory / MANIFEST).is_file():
            raise DataError(
                f"{directory} holds no run (there is no {MANIFEST}); give the directory that "
                "`sluice sweep` wrote its rows to"
            )
        manifest = read_manifest(directory / MANIFEST)
        rows = records.read(directory / ROWS)
        found[directory.resolve()] = Source(directory, manifest, rows)
    return list(found.values())


def merge(sources: Sequence[Source]) -> list[Record]:
    """The rows of all runs, each answer once.

    Where several runs measured parts of one cell, the parts are numbered as its segments, so that
    their wall clocks add up.

    Raises:
        DataError: two runs hold different answers to the same problem; names both.
    """
    found: dict[tuple[Cell, str, int], Record] = {}
    held: dict[tuple[Cell, str, int], tuple[Source, Record]] = {}  # as read
    segments: dict[Cell, int] = {}  # number of them, over the runs so far
    for source in sources:
        before = dict(segments)
        for row in source.rows:
            if row.key in held:
                _check_same(row, source, *held[row.key])
                continue
            held[row.key] = source, row
            segment = row.segment + before.get(row.cell, 0)
            segments[row.cell] = max(segments.get(row.cell, 0), segment + 1)
            found[row.key] = msgspec.structs.replace(row, segment=segment)
    return list(found.values())


def of_model(sources: Sequence[Source], model: str) -> list[Source]:
    """The runs that have rows of the model."""
    return [source for source in sources if model in source.models]


def _check_same(row: Record, source: Source, other: Source, known: Record) -> None:
    if known != row:
        raise DataError(
            f"{other.directory} and {source.directory} both hold {row.cell}, problem "
            f"{row.problem}, sample {row.sample}, but not the same answer; report on one of them"
        )
