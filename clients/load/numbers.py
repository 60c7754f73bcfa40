"""Rows in, numbers out. Names and formulas of `vllm bench serve` where it has them.

TPOT is (E2E - TTFT) / (tokens - 1) of a request. ITL has one value per token: the gap between two
chunks over the tokens of the later one; the tokens of a first chunk have no gap. Deviations are
those of the whole population, percentiles are interpolated linearly.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from clients.load.record import CUT, Row
from clients.load.runner import Result
from clients.load.series import Numbers, in_flight, moments, tokens_per_second
from clients.load.watch import Tick

LATENCIES = ("ttft", "tpot", "itl", "e2el", "sent_ttft", "sent_e2el", "lag")
LAG_ALLOWED = 0.01  # of the mean end-to-end latency
BUSY_ALLOWED = 0.9  # of the time, and of one core


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution, in milliseconds."""

    mean: float
    median: float
    std: float
    percentiles: dict[str, float]  # "99" -> value

    @classmethod
    def of(cls, seconds: Iterable[float], percentiles: Sequence[float]) -> "Spread | None":
        """None where there is nothing."""
        values = 1000 * np.fromiter(seconds, dtype=np.float64)
        if not len(values):
            return None
        return cls(
            mean=float(values.mean()),
            median=float(np.median(values)),
            std=float(values.std()),
            percentiles={f"{p:g}": float(np.percentile(values, p)) for p in percentiles},
        )


class ClientLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What this client did to the numbers."""

    lag_ms: float  # mean from due to sent
    loop_delay_ms: float  # mean time that a message waited for the client's event loop
    loop_delay_p99_ms: float
    lag_share: float | None  # the two means over the mean end-to-end latency
    busy: float | None  # share of the window in which the event loop did not wait for events
    cores: float | None  # CPU time of this process over wall time, within the window

    @property
    def late(self) -> bool:
        """Whether what it adds to the latencies is more than a hundredth of them."""
        return self.lag_share is not None and self.lag_share > LAG_ALLOWED

    @property
    def bottleneck(self) -> bool:
        """Whether it can hardly do more than it did."""
        return max(self.busy or 0.0, self.cores or 0.0) >= BUSY_ALLOWED

    @property
    def complaints(self) -> list[str]:
        """What is wrong with the client, if anything."""
        found = []
        if self.late:
            assert self.lag_share is not None
            found.append(
                f"it was late by {100 * self.lag_share:.1f} % of the mean end-to-end latency "
                f"(requests sent {self.lag_ms:.1f} ms late, messages read {self.loop_delay_ms:.1f} "
                f"ms late, on average; allowed: {100 * LAG_ALLOWED:g} %)"
            )
        if self.bottleneck:
            busy = "" if self.busy is None else f"was busy {100 * self.busy:.0f} % of the time and "
            found.append(
                f"it {busy}used {self.cores or 0.0:.2f} of the one core that it can use "
                f"(allowed of each: {100 * BUSY_ALLOWED:g} %)"
            )
        return found


class ShareNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """One class of the mix; latencies in ms from the scheduled time."""

    share: str
    completed: int
    failed: int
    cut: int
    output_throughput: float | None
    request_goodput: float | None
    ttft: Spread | None
    tpot: Spread | None
    e2el: Spread | None
    kv_tokens_peak: int  # most of any answer
    kv_tokens_evicted: int
    preemptions: int


@dataclass(frozen=True)
class Summary:
    """Everything that is shown of a run. Rates are per second of the window."""

    duration: float  # seconds of the window
    scheduled: int  # requests within the window, as are the next three
    completed: int
    failed: int
    cut: int
    errors: dict[str, int]  # of them, by gRPC status
    warm_up_requests: int
    ended: int  # answers that were complete within the window
    total_input_tokens: int  # prompts whose first token came within the window
    total_output_tokens: int  # new tokens that came within the window
    request_throughput: float | None
    request_goodput: float | None  # of those scheduled, that held all objectives; None without
    output_throughput: float | None
    total_token_throughput: float | None
    max_output_tokens_per_s: float  # in any second of the window
    max_concurrent_requests: int  # in flight at any moment of the window
    slo_shares: dict[str, float]  # objective -> share of the scheduled requests that held it
    good_share: float | None  # that held all of them
    latencies: dict[str, Spread | None]  # by name in LATENCIES
    client: ClientLoad
    shares: list[ShareNumbers]


def summarise(result: Result) -> Summary:
    """The numbers of a run; rates are None where the window is empty."""
    rows, (start, end), plan = result.rows, result.window, result.plan
    seconds = end - start
    counted = [row for row in rows if row.counted]
    well = [row for row in counted if row.ok]
    measured = {name: counted if name == "lag" else well for name in LATENCIES}
    spreads = {
        name: Spread.of(_VALUES[name](own), plan.percentiles) for name, own in measured.items()
    }
    output, prompts = _delivered(rows, start, end)
    ended = [row for row in rows if row.ok and start <= row.end <= end]
    slos = plan.slos
    held = {str(slo): [row.ok and slo.holds(row.latencies) for row in counted] for slo in slos}

    def rate(count: float) -> float | None:
        return count / seconds if seconds > 0 else None

    all_held = [all(marks) for marks in zip(*held.values(), strict=True)]
    return Summary(
        duration=seconds,
        scheduled=len(counted),
        completed=len(well),
        failed=sum(row.failed for row in counted),
        cut=sum(row.status == CUT for row in counted),
        errors=dict(Counter(row.status for row in counted if row.failed)),
        warm_up_requests=len(rows) - len(counted),
        ended=len(ended),
        total_input_tokens=prompts,
        total_output_tokens=output,
        request_throughput=rate(len(ended)),
        request_goodput=rate(sum(all_held)) if slos else None,
        output_throughput=rate(output),
        total_token_throughput=rate(output + prompts),
        max_output_tokens_per_s=float(max(tokens_per_second(rows, start, end)[1], default=0.0)),
        max_concurrent_requests=int(max(in_flight(rows, moments(rows, start, end)), default=0)),
        slo_shares={slo: float(np.mean(marks)) for slo, marks in held.items() if marks},
        good_share=float(np.mean(all_held)) if all_held else None,
        latencies=spreads,
        client=client_load(result.ticks, (start, end), spreads),
        shares=[_share(label, result, rate) for label in labels(result)],
    )


def labels(result: Result) -> list[str]:
    """The classes that there are rows of: those of the mix in its order, then a trace's own."""
    own = sorted({row.share for row in result.rows})
    given = [share.label for share in result.plan.mix if share.label in own]
    return list(dict.fromkeys(given + own))


def gaps(row: Row) -> Numbers:
    """Seconds between the tokens of an answer; a chunk's gap is split over its tokens."""
    counts = np.array(row.chunk_tokens[1:], dtype=np.int64)
    return np.repeat(np.diff(row.chunk_times) / counts, counts) if len(counts) else np.empty(0)


def client_load(
    ticks: Sequence[Tick], window: tuple[float, float], spreads: dict[str, Spread | None]
) -> ClientLoad:
    """The client's own part, from its ticks within the window and the lags of what it sent."""
    inside = [tick for tick in ticks if window[0] <= tick.at <= window[1]]
    late = 1000 * np.array([tick.late for tick in inside] or [0.0])
    lag, whole = spreads["lag"], spreads["e2el"]
    lag_ms = lag.mean if lag else 0.0
    busy, cores = _used(inside)
    return ClientLoad(
        lag_ms=lag_ms,
        loop_delay_ms=float(late.mean()),
        loop_delay_p99_ms=float(np.percentile(late, 99)),
        lag_share=(lag_ms + float(late.mean())) / whole.mean if whole and whole.mean else None,
        busy=busy,
        cores=cores,
    )


def _used(ticks: Sequence[Tick]) -> tuple[float | None, float | None]:
    """Share of the time that the loop was busy, and cores used, from the first tick to the last."""
    if not ticks:
        return None, None
    first, last = ticks[0], ticks[-1]
    wall = last.at + last.late - first.at - first.late
    if wall <= 0:
        return None, None
    known = first.idle is not None and last.idle is not None
    busy = 1 - ((last.idle or 0.0) - (first.idle or 0.0)) / wall if known else None
    return busy, (last.cpu - first.cpu) / wall


def _delivered(rows: Sequence[Row], start: float, end: float) -> tuple[int, int]:
    """New tokens, and prompt tokens whose answers began, within the window."""
    output = sum(
        count
        for row in rows
        for at, count in zip(row.chunk_times, row.chunk_tokens, strict=True)
        if start <= at <= end
    )
    begun = (row for row in rows if row.first_token is not None)
    return output, sum(row.prompt_tokens for row in begun if start <= (row.first_token or 0) <= end)


def _latency(metric: str) -> Callable[[list[Row]], list[float]]:
    def values(rows: list[Row]) -> list[float]:
        found = (row.latencies[metric] for row in rows)
        return [value for value in found if value is not None]

    return values


_VALUES: dict[str, Callable[[list[Row]], Iterable[float]]] = {
    "ttft": _latency("ttft"),
    "tpot": _latency("tpot"),
    "itl": lambda rows: np.concatenate([np.empty(0), *map(gaps, rows)]),
    "e2el": _latency("e2el"),
    "sent_ttft": lambda rows: [
        row.first_token - row.sent
        for row in rows
        if row.first_token is not None and row.sent is not None
    ],
    "sent_e2el": lambda rows: [row.end - row.sent for row in rows if row.sent is not None],
    "lag": lambda rows: [row.sent - row.due for row in rows if row.sent is not None],
}


def _share(label: str, result: Result, rate: Callable[[float], float | None]) -> ShareNumbers:
    own = [row for row in result.rows if row.share == label]
    counted = [row for row in own if row.counted]
    well = [row for row in counted if row.ok]
    slos = result.plan.slos
    good = [row for row in well if all(slo.holds(row.latencies) for slo in slos)]
    return ShareNumbers(
        share=label,
        completed=len(well),
        failed=sum(row.failed for row in counted),
        cut=sum(row.status == CUT for row in counted),
        output_throughput=rate(_delivered(own, *result.window)[0]),
        request_goodput=rate(len(good)) if slos else None,
        ttft=Spread.of(_VALUES["ttft"](well), result.plan.percentiles),
        tpot=Spread.of(_VALUES["tpot"](well), result.plan.percentiles),
        e2el=Spread.of(_VALUES["e2el"](well), result.plan.percentiles),
        kv_tokens_peak=max((row.kv_tokens_peak for row in well), default=0),
        kv_tokens_evicted=sum(row.kv_tokens_evicted for row in well),
        preemptions=sum(row.preemptions for row in well),
    )
