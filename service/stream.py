"""One request between the engine's steps and its gRPC handler.

The fan-out pushes, the handler takes: everything that is pending for an output is taken at once,
so a slow stream gets fewer and larger messages instead of a longer queue. Used on the event loop
only. Bounded by n * max_tokens ids. Knows nothing of text, gRPC or the pipe.
"""

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.messages import Accepted, Delta, Finished
from service.errors import ServiceError

Logprobs = list[tuple[float, list[tuple[int, float]]]]


class Part(NamedTuple):
    """What one output has to send."""

    output: int
    ids: list[int]
    logprobs: Logprobs
    finished: Finished | None


@dataclass(slots=True)
class _Pending:
    """One output's share of the stream."""

    ids: list[int] = field(default_factory=list)
    logprobs: Logprobs = field(default_factory=list)
    finished: Finished | None = None
    closed: bool = False  # a stop string was found: what follows is not sent
    taken: bool = False  # the handler has the end of it
    last_at: float | None = None  # when its newest token came


class RequestStream:
    """The state of one live request; times are on time.monotonic's clock."""

    def __init__(
        self, key: int, request_id: str, *, n: int, interval: int, arrival: float, deadline: float
    ) -> None:
        self.key = key
        self.request_id = request_id
        self.tenant = ""  # by name, whose request it is
        self.likeness = b""  # see service/quarantine.py; empty until the engine has it
        self.arrival = arrival
        self.deadline = deadline
        self.submitted: float | None = None  # when the engine was given it
        self.accepted: Accepted | None = None
        self.failure: ServiceError | None = None
        self.received = 0  # tokens, over all outputs
        self.sent_at = arrival  # when the last message left
        self.writing_since: float | None = None  # when the write in progress began
        self.beat_due = False  # a Progress message is wanted
        self._interval = interval
        self._outputs = [_Pending() for _ in range(n)]
        self._unfinished = n  # outputs that the engine has not ended
        self._open = n  # outputs whose end the handler has not taken
        self._awake = False
        self._waiter: asyncio.Future[None] | None = None

    # --- from the engine

    def accept(self, accepted: Accepted) -> None:
        self.accepted = accepted
        self._wake()

    def push(self, delta: Delta, now: float) -> float | None:
        """Adds new tokens; returns the seconds since the output's last ones, None at its first."""
        pending = self._outputs[delta.output]
        last, pending.last_at = pending.last_at, now
        self.received += len(delta.ids)
        if not pending.closed:
            pending.ids += delta.ids
            if delta.logprobs is not None:
                pending.logprobs += delta.logprobs
            if len(pending.ids) >= self._interval:
                self._wake()
        return None if last is None else now - last

    def finish(self, finished: Finished) -> None:
        pending = self._outputs[finished.output]
        if pending.finished is None:
            pending.finished = finished
            self._unfinished -= 1
            self._wake()

    @property
    def ended(self) -> bool:
        """Whether the engine has ended every output, so that it knows the request no more."""
        return self._unfinished == 0

    # --- from the front

    def fail(self, error: ServiceError) -> None:
        """Ends the stream with `error` as soon as the handler looks; the first error counts."""
        if self.failure is None:
            self.failure = error
            self._wake()

    def beat(self) -> None:
        """Asks the handler for a Progress message."""
        self.beat_due = True
        self._wake()

    def close(self, output: int) -> None:
        """Drops whatever else comes for an output but its end."""
        pending = self._outputs[output]
        pending.closed = True
        pending.ids, pending.logprobs = [], []

    # --- for the handler

    @property
    def drained(self) -> bool:
        """Whether every output's end was taken."""
        return self._open == 0

    @property
    def silent_outputs(self) -> int:
        """Outputs without a token so far, that have not ended."""
        return sum(p.last_at is None and p.finished is None for p in self._outputs)

    @property
    def ends(self) -> list[Finished]:
        """How the outputs ended that the engine has ended so far."""
        return [p.finished for p in self._outputs if p.finished is not None]

    @property
    def unfinished_outputs(self) -> int:
        return self._unfinished

    async def wait(self) -> None:
        """Returns once something happened since the last call.

        Raises:
            ServiceError: the stream has failed.
        """
        if not self._awake and self.failure is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._awake = False
        if self.failure is not None:
            raise self.failure

    def take(self) -> list[Part]:
        """Everything pending of the outputs that have `interval` tokens or have ended.

        Raises:
            ServiceError: the stream has failed, maybe while the handler wrote.
        """
        if self.failure is not None:
            raise self.failure
        parts = []
        for output, pending in enumerate(self._outputs):
            if pending.taken or (pending.finished is None and len(pending.ids) < self._interval):
                continue
            parts.append(Part(output, pending.ids, pending.logprobs, pending.finished))
            pending.ids, pending.logprobs = [], []
            if pending.finished is not None:
                pending.taken = True
                self._open -= 1
        return parts

    def _wake(self) -> None:
        self._awake = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
