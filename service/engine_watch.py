"""Ends an engine that hangs, so that its streams hear of it and a new one is started.

An engine says something after every step, and steps as long as it has requests. Its longest honest
silence is one step: of a large prefill, or the first of a shape whose kernels are still compiled.
"""

import asyncio
import logging
import time

from service.config import ServiceConfig
from service.engine_client import EngineClient

log = logging.getLogger(__name__)

LOOKS = 4  # in the allowed silence


async def watch_engine(client: EngineClient, config: ServiceConfig) -> None:
    """Runs until cancelled."""
    allowed = config.engine_silence_seconds
    overdue = False
    while True:
        await asyncio.sleep(allowed / LOOKS)
        silence = client.silence(time.monotonic())
        if silence <= allowed:
            overdue = False
        elif not overdue:
            overdue = True  # messages may lie behind a loop that was blocked; it has a turn now
        else:
            log.error(
                "the engine (pid %s) has had requests and said nothing for %.0f s; killing it",
                client.pid, silence,
            )  # fmt: skip
            client.kill()
            overdue = False
