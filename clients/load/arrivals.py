"""What decides when requests are sent: a concurrency, a rate or a trace."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from clients.errors import DataError
from clients.load.mix import Share
from clients.sweep.plan import WHOLE_CACHE


@dataclass(frozen=True)
class ClosedLoop:
    """So many requests in flight; the next is sent when one has ended."""

    concurrency: int


@dataclass(frozen=True)
class Rate:
    """Requests per second, whatever the server does."""

    per_second: float
    burstiness: float | None = 1.0
    """Shape of the gamma-distributed intervals: 1 is Poisson, less is burstier; None: constant."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a trace."""

    timestamp: float  # seconds; the first line is the start
    input_length: int | None = None  # tokens; None: as the run draws them, as the next
    output_length: int | None = None
    budget: int | str | None = None  # KV tokens or "full"; None: drawn from the mix
    policy: str | None = None

    @property
    def share(self) -> Share | None:
        """Its class, where it names one."""
        if self.budget is None and self.policy is None:
            return None
        return Share(0 if self.budget == WHOLE_CACHE else self.budget, self.policy)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Trace:
    """Calls at the times of a file."""

    calls: tuple[Call, ...]  # ascending; the first at 0
    name: str = "trace"


Arrivals = ClosedLoop | Rate | Trace


def read_trace(path: Path) -> Trace:
    """Calls from JSONL: `timestamp` in seconds, and if known `input_length`, `output_length`
    (tokens), `budget` (KV tokens or "full"), `policy`; other columns are ignored.

    Raises:
        DataError: the file cannot be read, or a line cannot be used; names the line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read the trace {path}: {error}") from error
    calls = tuple(_calls(lines, path))
    if not calls:
        raise DataError(f"the trace {path} has no lines; want one JSON object per request")
    start = calls[0].timestamp
    moved = (msgspec.structs.replace(call, timestamp=call.timestamp - start) for call in calls)
    return Trace(tuple(moved), path.name)


def _calls(lines: list[bytes], path: Path) -> Iterator[Call]:
    last = -math.inf
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            call = msgspec.json.decode(line, type=Call)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise DataError(
                f"{path}:{number}: {error}; want an object with timestamp (seconds) and, if known, "
                "input_length, output_length, budget, policy"
            ) from error
        lengths = (call.input_length, call.output_length)
        if any(length is not None and length < 1 for length in lengths):
            raise DataError(f"{path}:{number}: got the lengths {lengths}; want at least 1 token")
        if call.budget != WHOLE_CACHE and not (call.budget is None or _positive(call.budget)):
            raise DataError(
                f"{path}:{number}: got the budget {call.budget!r}; "
                f"want {WHOLE_CACHE!r} or KV tokens"
            )
        if call.timestamp < last:
            raise DataError(
                f"{path}:{number}: got the timestamp {call.timestamp:g} after {last:g}; "
                "sort the trace by time"
            )
        last = call.timestamp
        yield call


def _positive(value: int | str) -> bool:
    return isinstance(value, int) and value > 0
