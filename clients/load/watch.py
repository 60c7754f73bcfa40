"""Watches the run from both sides: how late this client is, and what the server holds."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from clients.async_client import AsyncClient
from clients.errors import CallError
from clients.load.loop import WatchedLoop

TICK_SECONDS = 0.02
POLL_SECONDS = 1.0
TIMER_SECONDS = 0.001  # what an event loop on epoll rounds its sleeps up by, at most


@dataclass(frozen=True)
class Tick:
    """One look at this process. Times in seconds from the start of the run."""

    at: float  # when it should have been
    late: float  # how long the event loop took to get to it, as to any message that came then
    cpu: float  # seconds of CPU time of this process so far
    idle: float | None = None  # seconds in which the loop waited so far, where it knows


class ServerLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of GetLoad; see the contract."""

    at: float  # seconds from the start of the run
    running: int
    waiting: int
    blocks_used: int
    blocks_promised: int
    blocks_free: int
    blocks_cached: int
    preemptions_total: int


class LoopWatch:
    """Ticks on the loop that it runs on; each that a blocked loop misses counts with its delay."""

    def __init__(self, origin: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.ticks: list[Tick] = []
        self._origin = origin
        self._clock = clock
        self._due = clock()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(max(self._due - self._clock(), 0.0))
            self.look()

    def look(self) -> None:
        """Notes every tick that is due by now."""
        now, cpu, idle = self._clock(), time.process_time(), _idle_seconds()
        while self._due <= now:
            late = max(now - self._due - TIMER_SECONDS, 0.0)
            self.ticks.append(Tick(self._due - self._origin, late, cpu, idle))
            self._due += TICK_SECONDS


def _idle_seconds() -> float | None:
    loop = asyncio.get_running_loop()
    return loop.idle_seconds if isinstance(loop, WatchedLoop) else None


async def poll_server(
    client: AsyncClient, origin: float, samples: list[ServerLoad], said: Callable[[], None]
) -> None:
    """Asks the server for its load once a second, and calls `said` after each answer or failure."""
    due = time.monotonic()
    while True:
        with suppress(CallError):  # requests say what is wrong; this is only a picture
            load = await client.load(timeout=POLL_SECONDS)
            fields = ServerLoad.__struct_fields__[1:]
            values = {name: getattr(load, name) for name in fields}
            samples.append(ServerLoad(at=round(time.monotonic() - origin, 3), **values))
        said()
        due = max(due + POLL_SECONDS, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
