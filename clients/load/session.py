"""A whole load test: connect, run, write."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from clients.async_client import AsyncClient
from clients.load.directory import make
from clients.load.files import write_run
from clients.load.loop import WatchedLoop
from clients.load.numbers import Summary, summarise
from clients.load.offers import Offers
from clients.load.plan import Plan
from clients.load.progress import LoadProgress
from clients.load.runner import Result, run_load
from clients.retry import NEVER
from clients.sweep.run import ServerFacts


def measure(server: str, plan: Plan, out: Path, console: Console) -> tuple[Result, Summary]:
    """Runs `plan` against `server` ("host:port") and writes what came of it into `out`.

    Raises:
        CallError: nobody is there. Later failures are rows.
        LoadError: the model cannot take what is asked for, or `out` cannot be made.
    """
    began = datetime.now(UTC)
    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        result, facts = runner.run(_run(server, plan, out, console))
    summary = summarise(result)
    write_run(out, result, summary, facts, began)
    return result, summary


async def _run(server: str, plan: Plan, out: Path, console: Console) -> tuple[Result, ServerFacts]:
    async with AsyncClient(server, retry=NEVER) as client:
        info = await client.model_info()
        facts = ServerFacts.of(info, await client.server_info())
        offers = Offers(plan, info)
        make(out)
        with LoadProgress(console, plan) as progress:
            return await run_load(client, plan, offers, progress.show), facts
