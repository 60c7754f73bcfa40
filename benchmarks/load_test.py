"""What `sluice load` itself can take, one token per message.

    python -m benchmarks.load_test            about 40 seconds on 2 cores
    python -m benchmarks.load_test --quick    one rate, under 25 seconds

The fake engine ends a step every so many milliseconds with a token for every stream
(benchmarks/paced_server.py); the front has one core, this client and the engine share another. A
closed loop, so that requests end and begin all the time. Appended to
benchmarks/results/load_test.jsonl; the last line on stdout is one JSON object:

    tokens_per_second     delivered at the first rate
    made_tokens_per_second  at most: steps that ended, times streams
    accept_seconds_median  from sending a request to its Accepted
    accept_seconds_p99
    client_busy           share of the time in which its event loop did not wait
    client_cores          CPU time of the client over wall time
    client_us_per_token   its inverse, in microseconds
    client_lag_share      how late the client was, over the mean end-to-end latency
    client_is_bottleneck  whether it would say so
"""

import asyncio
import json
import os
import statistics
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.paced_server import PROMPT, split_cores
from clients.load.arrivals import ClosedLoop
from clients.load.lengths import Length
from clients.load.loop import WatchedLoop
from clients.load.numbers import summarise
from clients.load.offers import Offers
from clients.load.plan import Plan
from clients.load.runner import run_load
from clients.local_server import local_servers
from clients.sdk import NEVER, AsyncClient

SERVE = (sys.executable, "-m", "benchmarks.paced_server")
WARM_UP_SECONDS = 4.0
ANSWERS = Length("uniform", 200, 600)  # tokens


@dataclass(frozen=True)
class Offered:
    """The load."""

    streams: int
    period: float  # seconds between the ends of engine steps; each gives every stream a token
    seconds: float  # measured


FULL = tuple(Offered(streams, 0.025, 10.0) for streams in (256, 512))
QUICK = (Offered(256, 0.025, 5.0),)


async def measure(offered: Offered) -> dict[str, Any]:
    """Runs the load test against a paced server of its own."""
    plan = Plan(
        ClosedLoop(offered.streams),
        duration=offered.seconds,
        warm_up=WARM_UP_SECONDS,
        drain_seconds=0.0,
        prompt_tokens=Length("fixed", PROMPT),
        output_tokens=ANSWERS,
    )
    with TemporaryDirectory() as directory:
        stamps = Path(directory) / "stamps"
        options = {"--streams": offered.streams, "--period": offered.period, "--stamps": stamps}
        flat = [str(part) for option in options.items() for part in option]
        async with local_servers(["fake"], Path(directory), flat, command=SERVE) as [server]:
            ours, origin = os.sched_getaffinity(0), time.monotonic()
            os.sched_setaffinity(0, {min(split_cores()[1])})
            try:
                async with AsyncClient(server.target, retry=NEVER) as client:
                    offers = Offers(plan, await client.model_info())
                    found = await run_load(client, plan, offers, lambda state: None)
            finally:
                os.sched_setaffinity(0, ours)
            steps = array("d", stamps.read_bytes())
    start, end = (origin + moment for moment in found.window)
    made = bisect_right(steps, end) - bisect_right(steps, start)
    summary = summarise(found)
    client_load = summary.client
    accepts = sorted(
        row.accepted - row.sent for row in found.rows if row.counted and row.accepted and row.sent
    )
    tokens, cores = summary.output_throughput or 0.0, client_load.cores or 0.0
    return {
        "offered_tokens_per_second": offered.streams / offered.period,
        "made_tokens_per_second": made * offered.streams / (end - start),
        "tokens_per_second": tokens,
        "accept_seconds_median": statistics.median(accepts),
        "accept_seconds_p99": accepts[int(0.99 * len(accepts))],
        "client_busy": client_load.busy,
        "client_cores": cores,
        "client_us_per_token": 1e6 * cores / tokens,
        "client_lag_share": client_load.lag_share,
        "client_is_bottleneck": client_load.bottleneck,
    }


def _run(offered: Offered) -> dict[str, Any]:
    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        return runner.run(measure(offered))


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows side by side."""
    cases = (f"{row['streams']} streams, {1e3 * row['period']:g} ms" for row in rows)
    table = Table("sluice load on one core", *cases)
    for name in list(rows[0])[3:]:
        values = (row[name] for row in rows)
        table.add_row(name, *(str(v) if isinstance(v, bool) else f"{v:,.4g}" for v in values))
    Console(width=100).print(table)


def main(quick: Annotated[bool, typer.Option("--quick", help="One rate.")] = False) -> None:
    """Measure the load test's client."""
    rows = [{**asdict(offered), **_run(offered)} for offered in (QUICK if quick else FULL)]
    show(rows)
    results.append("load_test", [{**row, "quick": quick} for row in rows])
    print(json.dumps({name: rows[0][name] for name in list(rows[0])[4:]}))


if __name__ == "__main__":
    typer.run(main)
