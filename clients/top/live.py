"""The loop of the view: look at every server, draw, wait."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from rich.console import Console
from rich.live import Live

from clients.async_client import AsyncClient
from clients.errors import NotServing
from clients.retry import NEVER
from clients.top.frame import frame
from clients.top.watch import Watch, look_at

UNBOUNDED = 10_000  # lines, where nobody scrolls


async def view(servers: Sequence[str], console: Console, interval: float) -> None:
    """Shows the servers (targets) until cancelled, anew every `interval` seconds.

    On a terminal in its alternate screen; else one plain frame after the other. Servers may come
    and go.
    """
    async with AsyncExitStack() as stack:
        clients = await _clients(stack, servers)
        watches = [Watch(server) for server in servers]
        live = Live(console=console, screen=True, auto_refresh=False)
        if console.is_terminal:
            stack.enter_context(live)
        while True:
            turn = asyncio.create_task(asyncio.sleep(interval))
            await _look(clients, watches)
            if console.is_terminal:
                live.update(frame(watches, console, interval, console.height), refresh=True)
            else:
                console.print(frame(watches, console, interval, UNBOUNDED), "")
            await turn


async def view_once(servers: Sequence[str], console: Console, interval: float) -> None:
    """Prints one frame, with rates over one interval.

    Raises:
        NotServing: no server answered.
    """
    async with AsyncExitStack() as stack:
        clients = await _clients(stack, servers)
        watches = [Watch(server) for server in servers]
        await _look(clients, watches)
        if any(watch.gone_since is None for watch in watches):
            await asyncio.sleep(interval)
            await _look(clients, watches)
    if all(watch.gone_since is not None for watch in watches):
        troubles = "; ".join(f"{watch.target}: {watch.trouble}" for watch in watches)
        raise NotServing(f"no answer from {troubles}")
    console.print(frame(watches, console, interval, UNBOUNDED))


async def _clients(stack: AsyncExitStack, servers: Sequence[str]) -> list[AsyncClient]:
    # Looking again is the retry, and a server that is gone must not hold up the others.
    return [await stack.enter_async_context(AsyncClient(s, retry=NEVER)) for s in servers]


async def _look(clients: Sequence[AsyncClient], watches: Sequence[Watch]) -> None:
    await asyncio.gather(*map(look_at, clients, watches))
