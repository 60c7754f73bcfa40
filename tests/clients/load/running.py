"""Load tests of scripted servers, and results made up by hand."""

import asyncio
from collections.abc import Callable
from typing import Any

from clients.async_client import AsyncClient
from clients.load.arrivals import ClosedLoop
from clients.load.loop import WatchedLoop
from clients.load.offers import Offers
from clients.load.plan import Plan
from clients.load.record import OK, Row
from clients.load.runner import Result, State, run_load
from clients.retry import NEVER
from protos.sluice.v1 import sluice_pb2 as pb
from tests.clients.fake_sluice import FakeSluice, model_info, serving

INFO = model_info(max_sequence_tokens=4096, vocabulary_size=257, eos_token_ids=[256])
GIVEN_UP = 30.0  # seconds after which a test stops waiting for what should have come
NUMBERED = tuple(f"p{index}" for index in range(100))


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {"arrivals": ClosedLoop(3), "requests": 6}
    return Plan(**fields | changes)


def fake(**changes: Any) -> FakeSluice:
    return FakeSluice(**{"info": INFO, **changes})


def run(
    server: FakeSluice, wanted: Plan, show: Callable[[State], None] = lambda state: None
) -> Result:
    async def scenario(target: str) -> Result:
        async with AsyncClient(target, retry=NEVER) as client:
            return await run_load(client, wanted, Offers(wanted, await client.model_info()), show)

    with serving(server) as target, asyncio.Runner(loop_factory=WatchedLoop) as runner:
        return runner.run(scenario(target))


def row(index: int = 0, **changes: Any) -> Row:
    """Scheduled at 10 s, first token after .5 s, then one every .1 s, five in all."""
    fields: dict[str, Any] = {
        "index": index,
        "share": "default budget",
        "counted": True,
        "status": OK,
        "finish_reason": "length",
        "scheduled": 10.0,
        "due": 10.0,
        "sent": 10.0,
        "accepted": 10.1,
        "first_token": 10.5,
        "end": 10.9,
        "chunk_times": [10.5, 10.6, 10.7, 10.8, 10.9],
        "chunk_tokens": [1, 1, 1, 1, 1],
        "prompt_tokens": 7,
        "asked_tokens": 5,
        "completion_tokens": 5,
    }
    return Row(**fields | changes)


def result(
    rows: list[Row], window: tuple[float, float] = (10.0, 20.0), wanted: Plan | None = None
) -> Result:
    return Result(wanted or plan(), window, rows, [], [], 0, False)


def texts(asked: list[pb.GenerateRequest]) -> list[str]:
    return [request.text for request in asked]


def number(prompt: str) -> int:
    """Of a prompt in NUMBERED."""
    return int(prompt[1:])
