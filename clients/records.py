"""One row per answer, as JSONL: everything a report needs, nothing computed from other rows."""

import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from clients.errors import DataError
from clients.scoring import Status


class Cell(NamedTuple):
    """One measured combination; its requests have the server to themselves."""

    model: str
    task: str
    budget: int | None  # KV tokens; None is the whole cache
    policy: str | None  # None without a budget: nothing is ever evicted

    def __str__(self) -> str:
        budget = "full" if self.budget is None else f"{self.budget} {self.policy}"
        return f"{self.model} {self.task} {budget}"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. Times in seconds; tokens and blocks as in `Usage` of the contract.

    A request that failed is a row too: status "error", no `finish_reason`, `error` says why, counts
    are zero. Status "error" with a `finish_reason` is an answer that could not be scored.
    """

    run: str
    model: str
    task: str
    problem: str  # id, unique within the task
    sample: int  # 0, 1, ... of the same problem
    seed: int
    budget: int | None
    policy: str | None
    gold: str  # of a multiple choice the letter
    options: tuple[str, ...] | None = None  # of a multiple choice, in the order shown
    prompt: str = ""  # digest of what was asked; rows of one problem must agree
    extracted: str | None
    correct: bool
    status: Status
    finish_reason: str | None  # "stop", "length"; None where the request failed
    error: str | None = None

    min_tokens: int = 0  # the floor, as granted; the budget itself unless elastic
    pinned_tokens: int = 0  # oldest tokens never evicted, as granted; 0 without a budget
    recent_tokens: int = 0  # newest tokens never evicted, as granted
    reclaim_tokens: int = 0  # freed by one eviction round, as granted
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    kv_tokens_peak: int = 0
    kv_tokens_final: int = 0
    kv_tokens_evicted: int = 0
    kv_tokens_pressed: int = 0
    eviction_rounds: int = 0
    kv_blocks_peak: int = 0
    preemptions: int = 0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    segment: int = 0  # 0 until the cell was interrupted; then one more with every resumption
    sent: float = 0.0  # the next three count from the start of the segment
    first_token: float | None = None
    end: float = 0.0
    text: str = ""

    @property
    def cell(self) -> Cell:
        return Cell(self.model, self.task, self.budget, self.policy)

    @property
    def key(self) -> tuple[Cell, str, int]:
        """What the row answers; a later row with the same key replaces an earlier one."""
        return self.cell, self.problem, self.sample

    @property
    def failed(self) -> bool:
        """There is no answer; a resumed run asks again."""
        return self.finish_reason is None

    @property
    def unscored(self) -> bool:
        """There is an answer, but no verdict on it."""
        return not self.failed and self.status in ("timeout", "error")


def read(path: Path) -> list[Record]:
    """The rows of a file, each key once (its last row), in order of first appearance.

    A torn last line, left by a killed writer, is ignored. A missing file has no rows.

    Raises:
        DataError: another line is not a row; names it.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    decoder = msgspec.json.Decoder(Record)
    rows: dict[tuple[Cell, str, int], Record] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = decoder.decode(line)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise DataError(f"{path}:{number}: not a row of a sweep ({error})") from error
        rows[row.key] = row
    return list(rows.values())


class Writer:
    """Appends rows, each with the operating system when `add` returns; one writer per file."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file cannot be written, or somebody else is writing it."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise DataError(f"{path} is being written by another process; let it end") from error
        self._size = self._drop_torn_line()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def add(self, row: Record) -> None:
        """Raises DataError where the row could not be written whole; nothing of it stays then."""
        data = msgspec.json.encode(row) + b"\n"
        try:
            written = os.write(self._file, data)
            if written != len(data):  # what a disk does that is full after part of it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise DataError(
                f"cannot write {self._path}: {error.strerror}. The rows before are safe; make room "
                "and run the same command again to go on"
            ) from error
        self._size += len(data)

    def _drop_torn_line(self) -> int:
        """Cuts off what a killed writer left of its last line; the size then."""
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.ftruncate(self._file, whole)
        return whole


def write(path: Path, rows: Iterable[Record]) -> None:
    """Writes rows to a new or existing file."""
    with Writer(path) as writer:
        for row in rows:
            writer.add(row)
