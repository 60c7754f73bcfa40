"""The tables of a load test, for terminal and page: latencies, totals, and the classes of a mix."""

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clients.load.arrivals import ClosedLoop
from clients.load.numbers import ShareNumbers, Spread, Summary
from clients.load.plan import Plan

Body = tuple[list[str], list[list[str]]]  # headings and lines

NAMES = {
    "ttft": "TTFT, time to first token",
    "tpot": "TPOT, time per further token",
    "itl": "ITL, gap between tokens",
    "e2el": "E2E, whole answer",
    "sent_ttft": "TTFT from the sent time",
    "sent_e2el": "E2E from the sent time",
    "lag": "sent late by this client",
}
COUNTS: tuple[tuple[str, Callable[[ShareNumbers], int]], ...] = (
    ("failed", lambda share: share.failed),
    ("cut", lambda share: share.cut),
    ("KV peak", lambda share: share.kv_tokens_peak),
    ("evicted", lambda share: share.kv_tokens_evicted),
    ("preempted", lambda share: share.preemptions),
)
SAME_WHEN_CLOSED = ("sent_ttft", "sent_e2el")  # a closed loop schedules for when it can send


def latencies(summary: Summary, plan: Plan) -> Body:
    """One line per latency, in ms."""
    headings = ["ms", "mean", "std", "median", *(f"p{p:g}" for p in plan.percentiles)]
    skipped = SAME_WHEN_CLOSED if isinstance(plan.arrivals, ClosedLoop) else ()
    return headings, [
        [NAMES[name], *_spread(spread, len(plan.percentiles))]
        for name, spread in summary.latencies.items()
        if name not in skipped
    ]


def totals(summary: Summary) -> list[tuple[str, str]]:
    """The rest, as (what, how much)."""
    rate = _rate
    found = [
        ("window", f"{summary.duration:.1f} s"),
        ("requests", _requests(summary)),
        ("answers per second", rate(summary.request_throughput, 2)),
        ("output tokens per second", rate(summary.output_throughput, 0)),
        ("with prompts, tokens per second", rate(summary.total_token_throughput, 0)),
        ("at most, in a second and at once", _peaks(summary)),
    ]
    if summary.good_share is not None:
        shares = ", ".join(f"{slo} {100 * s:.1f} %" for slo, s in summary.slo_shares.items())
        found += [
            ("goodput", f"{rate(summary.request_goodput, 2)} answers per second within every SLO"),
            ("SLOs held", f"{shares}; all {100 * summary.good_share:.1f} % of the requests"),
        ]
    client = summary.client
    lag = "-" if client.lag_share is None else f"{100 * client.lag_share:.2f} % of E2E"
    busy = "" if client.busy is None else f"busy {100 * client.busy:.0f} % of the time, "
    cores = "-" if client.cores is None else f"{client.cores:.2f} cores"
    found.append(("this client", f"late by {lag}, {busy}{cores}"))
    return found


def shares(found: Sequence[ShareNumbers], plan: Plan) -> Body:
    """One line per class of the mix. A count that is zero everywhere has no column."""
    last = f"{plan.percentiles[-1]:g}"
    counts = [(name, count) for name, count in COUNTS if any(count(share) for share in found)]
    pairs = [f"{name} p50 / p{last}" for name in ("TTFT", "TPOT", "E2E")]
    headings = ["budget, policy", "ok", "tok/s", *pairs, *(name for name, _ in counts)]
    body = [
        [
            share.share,
            f"{share.completed:,}",
            _rate(share.output_throughput, 0),
            *(_pair(spread, last) for spread in (share.ttft, share.tpot, share.e2el)),
            *(f"{count(share):,}" for _, count in counts),
        ]
        for share in found
    ]
    return headings, body


def show(summary: Summary, plan: Plan, notes: Sequence[str], console: Console) -> None:
    """Prints everything; what to doubt comes last, where it is seen."""
    facts = Table(box=None, show_header=False, padding=(0, 2))
    for what, how in totals(summary):
        facts.add_row(what, how)
    console.print(facts)
    console.print(_table(*latencies(summary, plan)))
    if len(summary.shares) > 1:
        console.print(_table(*shares(summary.shares, plan)))
    for note in notes:
        style = "bold" if note.startswith("WARNING") else ""
        console.print(note, style=style, highlight=False, markup=False, soft_wrap=True)


def _table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for cells in body:
        table.add_row(*map(escape, cells))
    return table


def _spread(spread: Spread | None, percentiles: int) -> list[str]:
    if spread is None:
        return ["-"] * (3 + percentiles)
    values = (spread.mean, spread.std, spread.median, *spread.percentiles.values())
    return [_milliseconds(value) for value in values]


def _pair(spread: Spread | None, percent: str) -> str:
    if spread is None:
        return "-"
    return f"{_milliseconds(spread.median)} / {_milliseconds(spread.percentiles[percent])}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _rate(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _requests(summary: Summary) -> str:
    parts = [
        f"{summary.scheduled:,} scheduled",
        f"{summary.completed:,} ok",
        f"{summary.failed:,} failed",
        *([f"{summary.cut:,} cut off"] if summary.cut else []),
        *([f"after {summary.warm_up_requests:,} of warm-up"] if summary.warm_up_requests else []),
    ]
    return ", ".join(parts)


def _peaks(summary: Summary) -> str:
    tokens, requests = summary.max_output_tokens_per_s, summary.max_concurrent_requests
    return f"{tokens:,.0f} tokens, {requests:,} requests"
