"""The engine as the front sees it: submits requests, fans steps out to their streams.

Owns the integer keys, which are never reused. Knows nothing of gRPC, text, or when to restart an
engine (service/supervisor.py). Used on the event loop only.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Collection

from engine.messages import (
    Accepted,
    Cancel,
    Delta,
    EngineMessage,
    Finished,
    FinishReason,
    Load,
    ModelInfo,
    Ready,
    Refusal,
    Refused,
    Step,
    Stop,
    Submit,
)
from engine.process import run_engine
from service.config import ServiceConfig
from service.engine_link import EngineLink, EngineTarget
from service.errors import (
    Aborted,
    BrokenOutput,
    DeadlinePassed,
    EngineDown,
    InvalidRequest,
    PolicyUnavailable,
    QueueFull,
    QuotaExceeded,
    ServiceError,
    Violation,
)
from service.metrics import ServiceMetrics
from service.quarantine import Quarantine
from service.stream import RequestStream
from service.totals import LoadTotals

log = logging.getLogger(__name__)

NEXT_ENGINE_SECONDS = 1.0  # when a request may come again after the death of an engine
NEXT_STEP_SECONDS = 0.1  # and after a step that failed


class EngineFailed(Exception):
    """An engine process ended before it was ready."""


class EngineClient:
    """At most one live engine, and the streams of the requests it knows."""

    def __init__(
        self,
        config: ServiceConfig,
        totals: LoadTotals,
        metrics: ServiceMetrics,
        target: EngineTarget = run_engine,
    ) -> None:
        self._config = config
        self._totals = totals
        self._metrics = metrics
        self._target = target
        self.quarantine = Quarantine()
        self._keys = itertools.count(1)
        self._streams: dict[int, RequestStream] = {}  # what the engine knows of
        self._link: EngineLink | None = None
        self._ready = asyncio.Event()
        self._heard = 0.0  # when it last said something, or got its first work after having none
        self.model: ModelInfo | None = None  # of the newest engine; kept while it is down

    # --- the process

    async def start(self) -> ModelInfo:
        """Starts an engine and waits until it is ready.

        Raises:
            EngineFailed: it ended before that.
        """
        self.spawn()
        return await self.ready()

    def spawn(self) -> None:
        """Starts an engine's process."""
        self._ready.clear()
        self._link = EngineLink(self._config.engine, self._target, self._on_message, self._on_end)

    async def ready(self) -> ModelInfo:
        """Waits until the engine that was spawned is ready.

        Raises:
            EngineFailed: it ended before that.
        """
        link = self._link
        assert link is not None
        ready = asyncio.ensure_future(self._ready.wait())
        ended = asyncio.ensure_future(link.ended.wait())
        try:
            done, _ = await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        # One that was ready and has died since is for whoever watches `ended`.
        if ready not in done or self.model is None:
            raise EngineFailed(
                f"the engine ended with exit code {link.exit_code} before it was ready; its own "
                "messages above say why"
            )
        log.info("engine ready: %s, pid %s", self.model.name, link.pid)
        return self.model

    @property
    def up(self) -> bool:
        """Whether requests can be submitted."""
        return self._ready.is_set()

    @property
    def waiting(self) -> int:
        """Outputs in the engine's queue."""
        return self._totals.load.waiting

    @property
    def pid(self) -> int | None:
        return self._link.pid if self._link else None

    async def ended(self) -> int | None:
        """Waits for the engine to end; returns its exit code."""
        assert self._link is not None
        await self._link.ended.wait()
        return self._link.exit_code

    async def stop(self, timeout: float) -> None:
        """Ends the engine, by force after `timeout` seconds; one that still loads, at once."""
        if self._link is not None:
            if not self.up:
                self._link.kill()  # it would not hear of it before it is ready
            await self._link.stop(timeout)

    def kill(self) -> None:
        """Ends the engine at once."""
        if self._link is not None:
            self._link.kill()

    # --- requests

    def next_key(self) -> int:
        return next(self._keys)

    def submit(self, stream: RequestStream, submit: Submit) -> None:
        """Hands a request to the engine.

        Raises:
            ServiceError: the engine is down, or the stream has failed already.
        """
        if stream.failure is not None:
            raise stream.failure
        if self._link is None or not self.up:
            raise EngineDown
        if not self._streams:
            self._heard = time.monotonic()
        self._streams[stream.key] = stream
        self._link.send(submit)

    def stop_output(self, stream: RequestStream, output: int) -> None:
        """Ends one output, whose text held a stop string."""
        if stream.key in self._streams and self._link is not None:
            self._link.send(Stop(stream.key, output))

    def release(self, stream: RequestStream) -> None:
        """Forgets a request; the engine is told unless it has ended it itself. Idempotent."""
        if self._streams.pop(stream.key, None) is not None and self._link is not None:
            self._link.send(Cancel(stream.key))

    def silence(self, now: float) -> float:
        """Seconds since the engine said anything, while it has requests; else 0."""
        return now - self._heard if self.up and self._streams else 0.0

    # --- from the engine

    def _on_message(self, message: EngineMessage) -> None:
        self._heard = time.monotonic()
        if isinstance(message, Ready):
            self.model = message.model
            self._totals.update(Load(blocks_free=message.model.total_blocks), self._heard)
            self._metrics.engine_up = True
            self._ready.set()
        else:
            self._on_step(message)

    def _on_end(self) -> None:
        self._ready.clear()
        self._metrics.engine_up = False
        streams, self._streams = self._streams, {}
        text = "the engine died while it served this request; retry"
        self._lose(streams.values(), text, NEXT_ENGINE_SECONDS)
        self._totals.engine_ended()

    def _lose(self, streams: Collection[RequestStream], text: str, retry_seconds: float) -> None:
        """Fails the requests that one failure of the engine took."""
        self._metrics.requests_quarantined += self.quarantine.lost(streams)
        for stream in streams:
            stream.fail(EngineDown(text, retry_seconds))

    def _on_step(self, step: Step) -> None:
        now = time.monotonic()
        self._totals.update(step.load, now)
        for accepted in step.accepted:
            self._on_accepted(accepted)
        for refused in step.refused:
            self._on_refused(refused)
        gaps: dict[float, int] = {}  # seconds between tokens of an output -> tokens
        for delta in step.deltas:
            self._on_delta(delta, now, gaps)
        lost = {}
        for finished in step.finished:
            stream = self._on_finished(finished)
            if stream is not None and finished.reason == FinishReason.LOST:
                lost[finished.key] = stream
        if lost:
            text = "the engine failed in a step of this request; retry"
            self._lose(lost.values(), text, NEXT_STEP_SECONDS)
        self._metrics.observe_step(step, gaps)

    def _on_accepted(self, accepted: Accepted) -> None:
        self._metrics.observe_accepted(accepted)
        stream = self._streams.get(accepted.key)
        if stream is not None:
            stream.accept(accepted)

    def _on_refused(self, refused: Refused) -> None:
        stream = self._streams.pop(refused.key, None)
        if stream is not None:
            stream.fail(_refusal(refused))

    def _on_delta(self, delta: Delta, now: float, gaps: dict[float, int]) -> None:
        stream = self._streams.get(delta.key)
        if stream is None or not delta.ids:
            return
        if stream.received == 0:
            self._metrics.observe_first_token(now - stream.arrival)
        gap = stream.push(delta, now)
        if gap is not None:
            each = gap / len(delta.ids)
            gaps[each] = gaps.get(each, 0) + len(delta.ids)

    def _on_finished(self, finished: Finished) -> RequestStream | None:
        self._metrics.observe_finished(finished)
        stream = self._streams.get(finished.key)
        if stream is None:
            return None
        stream.finish(finished)
        if stream.ended:
            del self._streams[finished.key]
        error = self._failure(finished.reason)
        if error is not None:
            stream.fail(error)
        return stream

    def _failure(self, reason: FinishReason) -> ServiceError | None:
        """The error that ends the whole request, for reasons that are not an answer."""
        match reason:
            case FinishReason.DEADLINE:
                return DeadlinePassed(self._config.max_request_seconds)
            case FinishReason.ERROR:
                return BrokenOutput()
            case FinishReason.CANCELLED:
                return Aborted()
        return None


def _refusal(refused: Refused) -> ServiceError:
    if refused.reason == Refusal.QUEUE_FULL:
        return QueueFull(refused.message, refused.retry_seconds)
    if refused.reason == Refusal.QUOTA:
        return QuotaExceeded(refused.field, refused.message, refused.retry_seconds or None)
    if refused.reason == Refusal.UNAVAILABLE_POLICY:
        return PolicyUnavailable(refused.message)
    return InvalidRequest([Violation(refused.field, refused.message)])
