"""Calls of the SDK to a scripted server."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from clients import sdk
from clients.async_client import AsyncClient
from clients.sdk import Request, RetryPolicy
from tests.clients.fake_sluice import FakeSluice, serving

QUICK = RetryPolicy(attempts=3, initial_seconds=0.01)


def ask(
    fake: FakeSluice, call: Callable[[AsyncClient], Awaitable[Any]], retry: RetryPolicy = QUICK
) -> Any:
    """What `call` comes to with a client of a server that runs `fake`."""

    async def scenario(target: str) -> Any:
        async with AsyncClient(target, retry=retry) as client:
            return await call(client)

    with serving(fake) as target:
        return asyncio.run(scenario(target))


async def events_of(client: AsyncClient, request: Request) -> list[sdk.Event]:
    return [event async for event in client.generate(request)]
