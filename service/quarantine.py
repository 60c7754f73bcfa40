"""Finds the request that fails the engine whenever it runs, and keeps it from the others.

A failure takes requests with it: one of them may be its cause, or none. Callers send the lost ones
again, whole or resumed, and each is known again by what it asks. One that was lost SUSPECT_AFTER
times is suspect. Suspects go to the engine one at a time, beside all others, each on probation
until it has drawn PROBATION_TOKENS or ended. A failure that takes a suspect on probation is its
doing: it is refused from then on, and the loss of the others is not counted against them. So such a
request costs SUSPECT_AFTER + 1 failures. Used on the event loop only.
"""

import asyncio
import dataclasses
import hashlib
import logging
import time
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from engine.messages import Submit
from service.errors import Quarantined
from service.stream import RequestStream

log = logging.getLogger(__name__)

SUSPECT_AFTER = 2  # losses
PROBATION_TOKENS = 16
LOOK_SECONDS = 0.05  # between two looks at whether a suspect has drawn them, or may go
MEMORY_SECONDS = 600.0  # since the last loss
MEMORY_REQUESTS = 16384


@dataclass
class _Record:
    """What is known of a request that was lost."""

    losses: int = 0
    convicted: bool = False
    last: float = 0.0  # loss, on time.monotonic's clock


class Quarantine:
    """Remembers what was lost, and gives suspects their turns."""

    def __init__(self) -> None:
        self._records: OrderedDict[bytes, _Record] = OrderedDict()  # lost last, at the end
        self._on_probation: RequestStream | None = None

    @asynccontextmanager
    async def turn(self, submit: Submit, stream: RequestStream) -> AsyncIterator[None]:
        """Surrounds a request's time in the engine; a suspect waits here until it may go.

        Raises:
            Quarantined: it has failed the engine.
            ServiceError: the stream failed while it waited.
        """
        stream.likeness = likeness(submit)
        while (suspect := self._suspects(stream)) and self._on_probation is not None:
            await asyncio.sleep(LOOK_SECONDS)
            if stream.failure is not None:
                raise stream.failure
        if not suspect:
            yield
            return
        self._on_probation = stream
        watching = asyncio.create_task(self._watch(stream))
        try:
            yield
            self._forgive(stream)
        finally:
            watching.cancel()
            self._end_probation(stream)

    def lost(self, streams: Collection[RequestStream]) -> int:
        """Books one failure of the engine and whose requests it took; returns how many of them
        are refused from now on, 1 at most."""
        now = time.monotonic()
        suspect = self._on_probation
        if suspect is not None and suspect in streams:
            record = self._remember(suspect.likeness, now)
            record.convicted = True
            log.error(
                "request %s failed the engine %d times, the last time as the one suspect; it is "
                "refused for %g s", suspect.request_id, record.losses, MEMORY_SECONDS,
            )  # fmt: skip
            return 1
        for known in {stream.likeness for stream in streams}:
            self._remember(known, now)
        return 0

    def _suspects(self, stream: RequestStream) -> bool:
        record = self._recall(stream.likeness)
        if record.convicted:
            raise Quarantined(MEMORY_SECONDS)
        return record.losses >= SUSPECT_AFTER

    def _recall(self, known: bytes) -> _Record:
        record = self._records.get(known)
        if record is None or record.last < time.monotonic() - MEMORY_SECONDS:
            return _Record()
        return record

    def _remember(self, known: bytes, now: float) -> _Record:
        """Counts a loss."""
        record = self._records[known] = self._recall(known)
        self._records.move_to_end(known)
        record.losses, record.last = record.losses + 1, now
        if len(self._records) > MEMORY_REQUESTS:
            self._records.popitem(last=False)
        return record

    async def _watch(self, stream: RequestStream) -> None:
        """Lets the next suspect go once this one has drawn enough."""
        while stream.received < PROBATION_TOKENS:
            await asyncio.sleep(LOOK_SECONDS)
        self._forgive(stream)
        self._end_probation(stream)

    def _forgive(self, stream: RequestStream) -> None:
        self._records.pop(stream.likeness, None)

    def _end_probation(self, stream: RequestStream) -> None:
        if self._on_probation is stream:
            self._on_probation = None


def likeness(submit: Submit) -> bytes:
    """Alike for a request and for its repetitions, whole or resumed: a tenant's same prompt with
    the same settings. Not the seed: one that a server has chosen may be lost with the stream."""
    sampling = dataclasses.replace(submit.sampling, seed=0)
    asked = msgspec.msgpack.encode((submit.tenant.name, sampling, submit.n))
    digest = hashlib.blake2b(asked, digest_size=16)
    digest.update(array("I", submit.prompt).tobytes())
    return digest.digest()
