"""Sweeps over scripted servers."""

import asyncio
import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from clients.records import Cell, Record
from clients.sweep.plan import Plan, Settings
from clients.sweep.runner import sweep
from clients.workloads.problem import Problem
from protos.sluice.v1 import sluice_pb2 as pb
from tests.clients.builders import problem
from tests.clients.fake_sluice import FakeSluice, serving

FULL = Cell("script", "t", None, None)
TIGHT = Cell("script", "t", 20, "r_kv")


def plan(problems: int | Sequence[Problem] = 3, **changes: object) -> Plan:
    if isinstance(problems, int):
        problems = [problem(index) for index in range(problems)]
    fields: dict[str, object] = {
        "problems": {"t": tuple(problems)},
        "budgets": (None, 20),
        "policies": ("r_kv", "window"),
        "settings": Settings(concurrency=4, max_tokens=50),
    }
    return Plan(**fields | changes)  # type: ignore[arg-type]


def run(
    fakes: FakeSluice | list[FakeSluice], wanted: Plan, out: Path, patience: float = 10.0
) -> list[Record]:
    """Sweeps over one server per fake."""

    async def scenario() -> list[Record]:
        return await sweep(targets, wanted, out, Console(file=io.StringIO()), patience)

    with ExitStack() as stack:
        fakes = [fakes] if isinstance(fakes, FakeSluice) else fakes
        targets = [stack.enter_context(serving(fake)) for fake in fakes]
        return asyncio.run(scenario())


def asked(fake: FakeSluice) -> list[pb.GenerateRequest]:
    """The requests of the measurement, without the warm-up."""
    return [request for request in fake.requests if request.cache_salt]
