"""Writes one request's stream: Accepted, then whatever is pending, until every output has ended.

Knows nothing of the engine's process, of validation or of other requests.
"""

import time
from typing import Any

from protos.sluice.v1 import sluice_pb2
from service.engine_client import EngineClient
from service.output import Output
from service.stream import Part, RequestStream


class Delivery:
    """Between a RequestStream and a grpc.aio ServicerContext."""

    def __init__(
        self, stream: RequestStream, outputs: list[Output], client: EngineClient, context: Any
    ) -> None:
        self._stream = stream
        self._outputs = outputs
        self._client = client
        self._context = context

    async def run(self, seed: int, resumed: list[int]) -> None:
        """Returns after the last Finished; `resumed` are tokens that the caller has already.

        Raises:
            ServiceError: the stream failed.
        """
        stream = self._stream
        while stream.accepted is None:
            await stream.wait()
        await self._write(self._accepted(seed))
        if resumed:
            await self._write(self._outputs[0].resume(resumed))
            self._end_if_stopped(0)
        while not stream.drained:
            for part in stream.take():
                await self._send(part)
            if stream.beat_due:
                await self._write(self._progress())
            if not stream.drained:
                await stream.wait()

    async def _send(self, part: Part) -> None:
        output = self._outputs[part.output]
        was_stopped = output.stop is not None
        events = output.events(part)
        if not was_stopped and part.finished is None:
            self._end_if_stopped(part.output)
        for event in events:
            await self._write(event)

    def _end_if_stopped(self, output: int) -> None:
        """Tells the engine, where the text of an output holds a stop string."""
        if self._outputs[output].stop is not None:
            self._stream.close(output)
            self._client.stop_output(self._stream, output)

    async def _write(self, event: sluice_pb2.GenerateEvent) -> None:
        stream = self._stream
        stream.beat_due = False
        stream.writing_since = time.monotonic()
        await self._context.write(event)
        stream.writing_since = None
        stream.sent_at = time.monotonic()

    def _accepted(self, seed: int) -> sluice_pb2.GenerateEvent:
        accepted = self._stream.accepted
        assert accepted is not None
        return sluice_pb2.GenerateEvent(
            accepted=sluice_pb2.Accepted(
                request_id=self._stream.request_id,
                prompt_tokens=accepted.prompt_tokens,
                max_tokens=accepted.max_tokens,
                kv_budget=accepted.kv_budget,
                policy=accepted.policy,
                recent_tokens=accepted.recent_tokens,
                sink_tokens=accepted.sink_tokens,
                reclaim_tokens=accepted.reclaim_tokens,
                min_tokens=accepted.min_tokens,
                blocks_promised=accepted.blocks_promised,
                seed=seed,
            )
        )

    def _progress(self) -> sluice_pb2.GenerateEvent:
        """An output without a token counts as waiting while anything waits at all: the engine
        does not say which outputs those are."""
        stream = self._stream
        waiting = min(stream.silent_outputs, self._client.waiting)
        return sluice_pb2.GenerateEvent(
            progress=sluice_pb2.Progress(
                waiting=waiting,
                running=stream.unfinished_outputs - waiting,
                completion_tokens=stream.received,
            )
        )
