"""One row per request, as JSONL: every moment of it, in seconds from the start of the run."""

from array import array
from collections.abc import Iterable
from pathlib import Path

import msgspec

from clients.completion import FINISH_REASONS, Event
from clients.load.offers import Offer
from protos.sluice.v1 import sluice_pb2 as pb

OK, CUT, BROKEN = "OK", "cut", "BROKEN_STREAM"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One request. Counts as in `Usage` of the contract; zero where it did not end well."""

    index: int
    share: str  # its class in the mix
    counted: bool  # scheduled within the window; else it is warm-up
    status: str  # OK, CUT (off by the end of the run), or the gRPC status it failed with
    error: str | None = None
    finish_reason: str | None = None  # "stop" or "length"

    scheduled: float
    due: float  # scheduled, or when there was a slot
    sent: float | None  # None: cut off before it could be
    accepted: float | None = None
    first_token: float | None = None
    end: float  # the last output ended, or the failure arrived
    chunk_times: list[float] = []  # when new tokens arrived
    chunk_tokens: list[int] = []  # how many each time

    budget: int | None = None  # KV tokens granted; 0 is none; None: never accepted
    policy: str | None = None
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    asked_tokens: int  # most new tokens
    completion_tokens: int = 0  # received
    kv_tokens_peak: int = 0
    kv_tokens_evicted: int = 0
    kv_tokens_pressed: int = 0
    eviction_rounds: int = 0
    preemptions: int = 0
    queue_seconds: float = 0.0  # these three as the server saw them
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.status == OK

    @property
    def failed(self) -> bool:
        return self.status not in (OK, CUT)

    @property
    def latencies(self) -> dict[str, float | None]:
        """Seconds from the scheduled time, by metric; None where there is none."""
        first, tokens = self.first_token, self.completion_tokens
        several = first is not None and tokens > 1
        return {
            "ttft": None if first is None else first - self.scheduled,
            "tpot": (self.end - first) / (tokens - 1) if several and first is not None else None,
            "e2el": self.end - self.scheduled,
        }


USAGE_FIELDS = [
    f.name
    for f in pb.Usage.DESCRIPTOR.fields
    if f.name in Row.__struct_fields__ and f.name not in ("prompt_tokens", "completion_tokens")
]


class Exchange:
    """A request under way. Times in seconds from the start of the run.

    `add` runs once per message, so it only notes what came when.
    """

    def __init__(self, offer: Offer, scheduled: float, due: float, counted: bool) -> None:
        self.offer = offer
        self.sent: float | None = None
        self._scheduled = scheduled
        self._due = due
        self._counted = counted
        self._accepted: tuple[float, pb.Accepted] | None = None
        self._times = array("d")
        self._tokens = array("L")
        self._finished: tuple[float, pb.Finished] | None = None

    def add(self, event: Event, at: float) -> int:
        """Takes the next event, which arrived at time `at`; how many new tokens it brought."""
        if type(event) is pb.Tokens:
            count = len(event.ids)
            if count:
                self._times.append(at)
                self._tokens.append(count)
            return count
        if type(event) is pb.Accepted:
            self._accepted = (at, event)
        elif type(event) is pb.Finished:
            self._finished = (at, event)
        return 0

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self._finished is not None

    def row(self, status: str, error: str | None, end: float) -> Row:
        """What came of it."""
        granted = self._accepted[1] if self._accepted else None
        finished = self._finished if status == OK else None
        usage = finished[1].usage if finished else pb.Usage()
        return Row(
            index=self.offer.index,
            share=self.offer.share.label,
            counted=self._counted,
            status=status,
            error=error,
            finish_reason=FINISH_REASONS.get(finished[1].reason) if finished else None,
            scheduled=rounded(self._scheduled),
            due=rounded(self._due),
            sent=None if self.sent is None else rounded(self.sent),
            accepted=rounded(self._accepted[0]) if self._accepted else None,
            first_token=rounded(self._times[0]) if self._times else None,
            end=rounded(finished[0] if finished else end),
            chunk_times=[rounded(moment) for moment in self._times],
            chunk_tokens=self._tokens.tolist(),
            budget=granted.kv_budget if granted else None,
            policy=(granted.policy or None) if granted else None,
            prompt_tokens=granted.prompt_tokens if granted else 0,
            asked_tokens=self.offer.request.stopping.max_tokens or 0,
            completion_tokens=sum(self._tokens),
            **{name: getattr(usage, name) for name in USAGE_FIELDS},
        )


def rounded(seconds: float) -> float:
    """To microseconds, so that a row is not mostly digits."""
    return round(seconds, 6)


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows to a new file."""
    with path.open("wb") as file:
        for row in rows:
            file.write(msgspec.json.encode(row) + b"\n")
