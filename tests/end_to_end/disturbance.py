"""Answers that are asked through the SDK while something breaks, or nothing does."""

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import aclosing

from clients.local_server import LocalServer
from clients.sdk import AsyncClient, Completion, Gatherer, Request, RetryPolicy, Tokens

ENGINE = re.compile(r"engine ready: \S+, pid (\d+)")
PATIENT = RetryPolicy(attempts=1000, initial_seconds=0.5, maximum_seconds=1.0)
"""Goes on asking while an engine loads anew."""


def kill_engine(server: LocalServer) -> None:
    """Kills the newest engine of a server."""
    os.kill(int(ENGINE.findall(server.log.read_text())[-1]), signal.SIGKILL)


async def undisturbed(target: str, requests: list[Request]) -> list[Completion]:
    """The answers."""
    async with AsyncClient(target, retry=PATIENT) as client:
        return await asyncio.gather(*(client.complete(request) for request in requests))


async def disturbed(
    target: str, requests: list[Request], disturb: Callable[[], None], tokens: int = 30
) -> list[Completion]:
    """The answers, where `disturb` is called once each has so many tokens."""
    begun: asyncio.Queue[None] = asyncio.Queue()
    async with AsyncClient(target, retry=PATIENT) as client:
        asked = [asyncio.create_task(_watched(client, each, tokens, begun)) for each in requests]
        for _ in requests:
            await asyncio.wait_for(begun.get(), 60)
        disturb()
        return await asyncio.wait_for(asyncio.gather(*asked), 110)


async def _watched(
    client: AsyncClient, request: Request, tokens: int, begun: asyncio.Queue[None]
) -> Completion:
    """The answer; says so once it has `tokens` of them."""
    gatherer, seen = Gatherer(1, time.monotonic()), 0
    async with aclosing(client.generate(request)) as events:
        async for event in events:
            gatherer.add(event, time.monotonic())
            if isinstance(event, Tokens):
                if seen < tokens <= seen + len(event.ids):
                    begun.put_nowait(None)
                seen += len(event.ids)
    return gatherer.completion()
