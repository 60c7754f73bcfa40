"""What `sluice load` itself can take, one token per message.

    python -m benchmarks.load_test            about a minute on 2 cores
    python -m benchmarks.load_test --quick    one rate, under 25 seconds

The fake engine ends a step every so many milliseconds with a token for every stream
(benchmarks/paced_server.py); the front has one core, this client and the engine share another. A
closed loop, so that requests end and begin all the time. Appended to
benchmarks/results/load_test.jsonl; the last line on stdout is one JSON object:

    tokens_per_second     delivered at the first rate
    client_cores          CPU time of the client over wall time
    client_us_per_token   its inverse, in microseconds
    client_lag_share      how late the client was, over the mean end-to-end latency
    client_is_bottleneck  whether it would warn
"""

import asyncio
import json
import os
import sys
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


FULL = tuple(Offered(streams, 0.025, 10.0) for streams in (256, 384, 512))
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
            ours = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {min(split_cores()[1])})
            try:
                async with AsyncClient(server.target, retry=NEVER) as client:
                    offers = Offers(plan, await client.model_info())
                    found = await run_load(client, plan, offers, lambda state: None)
            finally:
                os.sched_setaffinity(0, ours)
    summary = summarise(found)
    client_load = summary.client
    tokens, cores = summary.output_throughput or 0.0, client_load.cores or 0.0
    return {
        "offered_tokens_per_second": offered.streams / offered.period,
        "tokens_per_second": tokens,
        "client_cores": cores,
        "client_us_per_token": 1e6 * cores / tokens,
        "client_lag_share": client_load.lag_share,
        "client_is_bottleneck": bool(client_load.complaints),
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows as a table."""
    names = list(rows[0])[3:]
    table = Table("streams", "step", *names, title="sluice load on one core")
    for row in rows:
        step = f"{1e3 * row['period']:g} ms"
        values = (v if isinstance(v := row[name], bool) else f"{v:,.4g}" for name in names)
        table.add_row(str(row["streams"]), step, *map(str, values))
    Console(width=150).print(table)


def main(quick: Annotated[bool, typer.Option("--quick", help="One rate.")] = False) -> None:
    """Measure the load test's client."""
    rows = [
        {**asdict(offered), **asyncio.run(measure(offered))}
        for offered in (QUICK if quick else FULL)
    ]
    show(rows)
    results.append("load_test", [{**row, "quick": quick} for row in rows])
    print(json.dumps({name: rows[0][name] for name in list(rows[0])[4:]}))


if __name__ == "__main__":
    typer.run(main)
