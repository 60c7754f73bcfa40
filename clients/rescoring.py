"""Recorded answers, scored again: rows of a sweep, or anybody's JSONL of responses and golds."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from clients import records
from clients.errors import DataError
from clients.records import Record
from clients.scoring.judge import default_judge
from clients.sweep.run import ROWS
from clients.sweep.verdict import verdict

RESPONSES = ("response", "text", "completion", "output", "generation")
GOLDS = ("gold", "answer", "expected_answer", "target")
VERDICTS = ("correct", "is_correct", "score")


@dataclass(frozen=True)
class Recorded:
    """What a file holds."""

    path: Path
    rows: list[Record]
    own: bool  # a run of ours
    judged: bool  # it says which were right; what scoring changes is known


def read(path: Path) -> Recorded:
    """The answers of a run directory, of its rows, or of a JSONL with a response and a gold a row.

    Raises:
        DataError: there is no such file, or a line is neither; names the line.
    """
    path = path / ROWS if path.is_dir() else path
    try:
        with path.open("rb") as file:
            first = file.readline()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if b'"segment"' in first:
        return Recorded(path, records.read(path), own=True, judged=True)
    lines = path.read_bytes().splitlines()
    found = [_foreign(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"{path} holds no answers")
    rows, judged = [row for row, _ in found], all(judged for _, judged in found)
    return Recorded(path, rows, own=False, judged=judged)


def rescore(rows: Sequence[Record], done: Callable[[], None] = lambda: None) -> list[Record]:
    """`rows` with new verdicts, in order; as many at a time as there are cores."""

    def one(row: Record) -> Record:
        scored = verdict(row)
        done()
        return scored

    with ThreadPoolExecutor(default_judge().workers) as pool:
        return list(pool.map(one, rows))


def changes(recorded: Recorded, after: Iterable[Record]) -> list[tuple[Record, Record]]:
    """The pairs whose verdict is another now; of other tools' rows only right and wrong count."""

    def found(row: Record) -> tuple[object, ...]:
        return (row.correct, row.status, row.extracted) if recorded.own else (row.correct,)

    pairs = zip(recorded.rows, after, strict=True)
    return [(old, new) for old, new in pairs if found(old) != found(new)]


def write(recorded: Recorded, after: Sequence[Record]) -> int:
    """Appends the rows whose verdict changed, which replace the earlier ones; how many.

    Raises:
        DataError: the file is not one of a sweep, or cannot be written.
    """
    if not recorded.own:
        raise DataError(f"{recorded.path} is not a run of `sluice sweep`; it was not changed")
    changed = [new for _, new in changes(recorded, after)]
    with records.Writer(recorded.path) as writer:
        for row in changed:
            writer.add(row)
    return len(changed)


def _foreign(line: bytes, path: Path, number: int) -> tuple[Record, bool]:
    """A line of another tool as a row, and whether it says that it was right."""
    where = f"{path}:{number}"
    try:
        data = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DataError(f"{where}: not a JSON object ({error})") from error
    text, gold = _first(data, RESPONSES), _first(data, GOLDS)
    if not isinstance(text, str) or gold is None:
        raise DataError(
            f"{where}: got the columns {', '.join(data)}; want a response in one of "
            f"{', '.join(RESPONSES)}, and a gold in one of {', '.join(GOLDS)}"
        )
    was = _first(data, VERDICTS)
    row = Record(
        run="",
        model=str(data.get("model", "")),
        task=path.stem,
        problem=str(data.get("id", number)),
        sample=number,
        seed=0,
        budget=None,
        policy=None,
        gold=str(gold),
        options=tuple(map(str, data["options"])) if data.get("options") else None,
        extracted=data.get("extracted"),
        correct=bool(was),
        status="ok",
        finish_reason=str(data.get("finish_reason") or "stop"),
        text=text,
    )
    return row, was is not None


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)
