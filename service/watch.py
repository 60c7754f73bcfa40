"""Looks after streams that no event would wake: silent ones, stalled ones, overdue ones.

One timer for all of them, because a timer per stream would cost more than their tokens.
"""

import asyncio
import time

from service.config import ServiceConfig
from service.errors import DeadlinePassed, ReaderStalled
from service.live import LiveRequests
from service.stream import RequestStream

OVERDUE_SECONDS = 5.0  # the engine ends what is past its deadline; this is for one that hangs


async def watch(live: LiveRequests, config: ServiceConfig) -> None:
    """Runs until cancelled."""
    pause = min(config.heartbeat_seconds, config.write_stall_seconds) / 8
    while True:
        await asyncio.sleep(pause)
        now = time.monotonic()
        for stream in live:
            _look_after(stream, live, config, now)


def _look_after(
    stream: RequestStream, live: LiveRequests, config: ServiceConfig, now: float
) -> None:
    if now > stream.deadline + OVERDUE_SECONDS:
        live.end(stream, DeadlinePassed(config.max_request_seconds))
    elif stream.writing_since is not None:
        if now - stream.writing_since > config.write_stall_seconds:
            # The handler stays in write() until the connection dies; HTTP/2 has no other way out.
            live.end(stream, ReaderStalled(config.write_stall_seconds))
    elif stream.accepted is not None and now - stream.sent_at > config.heartbeat_seconds:
        stream.beat()
