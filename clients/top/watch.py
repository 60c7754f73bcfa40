"""What one server said lately, and the rates that follow from the differences of its totals.

Knows nothing of terminals. Bounded: speeds of the last HISTORY looks, and the newest reply.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

from clients.async_client import AsyncClient
from clients.errors import SluiceError
from protos.sluice.v1 import sluice_pb2 as pb

HISTORY = 600  # speeds kept; wider than any terminal
LOOK_SECONDS = 2.0  # that a server may take to answer


@dataclass(frozen=True)
class Look:
    """What a server said at one moment."""

    at: float  # seconds on any steady clock
    server: pb.ServerInfo
    load: pb.Load


@dataclass(frozen=True)
class Rates:
    """Per second, between two looks."""

    tokens: float  # new ones
    preemptions: float
    pressed: float  # KV tokens
    evicted: dict[str, float]  # KV tokens by policy


def rates(before: Look, now: Look) -> Rates | None:
    """What happened per second; None where the server was started anew in between."""
    seconds = now.at - before.at
    old, new = before.load, now.load
    policies = {*old.tokens_evicted_total, *new.tokens_evicted_total}
    evicted = {
        name: new.tokens_evicted_total.get(name, 0) - old.tokens_evicted_total.get(name, 0)
        for name in sorted(policies)
    }
    tokens = new.generation_tokens_total - old.generation_tokens_total
    preemptions = new.preemptions_total - old.preemptions_total
    pressed = new.tokens_pressed_total - old.tokens_pressed_total
    restarted = now.server.uptime_seconds < before.server.uptime_seconds
    if seconds <= 0 or restarted or min(tokens, preemptions, pressed, *evicted.values()) < 0:
        return None
    return Rates(
        tokens / seconds,
        preemptions / seconds,
        pressed / seconds,
        {name: count / seconds for name, count in evicted.items()},
    )


@dataclass
class Watch:
    """One server as a viewer knows it."""

    target: str
    model: pb.ModelInfo | None = None  # None until it answered once
    look: Look | None = None  # the newest
    rates: Rates | None = None  # None where two looks at one process lack
    speeds: deque[float | None] = field(default_factory=lambda: deque(maxlen=HISTORY))
    gone_since: datetime | None = None
    trouble: str = ""  # why it is gone

    def add(self, look: Look) -> None:
        """Takes what the server says now."""
        self.rates = None if self.look is None else rates(self.look, look)
        if self.look is not None:
            self.speeds.append(None if self.rates is None else self.rates.tokens)
        self.look, self.gone_since, self.trouble = look, None, ""

    def lose(self, trouble: str, now: datetime) -> None:
        """Notes that it does not answer."""
        self.rates = None
        self.speeds.append(None)
        self.gone_since, self.trouble = self.gone_since or now, trouble


async def look_at(client: AsyncClient, watch: Watch) -> None:
    """Asks a server once; whatever goes wrong is noted in its watch."""
    try:
        server, load = await asyncio.gather(
            client.server_info(timeout=LOOK_SECONDS), client.load(timeout=LOOK_SECONDS)
        )
        if watch.model is None or watch.gone_since is not None:  # it may serve another one now
            watch.model = await client.model_info(timeout=LOOK_SECONDS)
    except SluiceError as error:
        watch.lose(str(error), datetime.now())
    else:
        watch.add(Look(asyncio.get_running_loop().time(), server, load))
