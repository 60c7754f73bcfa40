"""Starts a new engine when one dies, and gives up when they keep dying."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.engine_client import EngineClient, EngineFailed

log = logging.getLogger(__name__)


class EngineCrashLoop(Exception):
    """The engine died so often that another start would not help."""


@dataclass(frozen=True)
class RestartPolicy:
    """When to try again, and when no more."""

    deaths: int = 5  # so many ...
    within_seconds: float = 60.0  # ... in such a time are too many
    first_pause_seconds: float = 0.2  # doubles with each death in that time
    longest_pause_seconds: float = 5.0

    def pause(self, deaths: int) -> float:
        """Seconds to wait after that many recent deaths."""
        return min(self.first_pause_seconds * 2.0 ** (deaths - 1), self.longest_pause_seconds)


async def supervise(
    client: EngineClient,
    on_change: Callable[[bool], Awaitable[None]],
    policy: RestartPolicy,
) -> None:
    """Keeps an engine running that was started once; runs until cancelled.

    `on_change` is told False when an engine has died and True when the next one is ready.

    Raises:
        EngineCrashLoop: too many deaths.
    """
    deaths: deque[float] = deque()
    while True:
        code = await client.ended()
        await on_change(False)
        now = time.monotonic()
        deaths.append(now)
        while deaths[0] < now - policy.within_seconds:
            deaths.popleft()
        log.error("the engine ended with exit code %s", code)
        if len(deaths) >= policy.deaths:
            raise EngineCrashLoop(
                f"the engine died {len(deaths)} times within {policy.within_seconds:g} s"
            )
        await asyncio.sleep(policy.pause(len(deaths)))
        try:
            await client.start()
        except EngineFailed as error:
            log.error("%s", error)
        else:
            await on_change(True)
