"""The SDK: Sluice's two services as Python calls, with typed errors and safe retries."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar, Unpack

import grpc

from clients import access
from clients import channel as channels
from clients.completion import Completion, Event, Gatherer
from clients.errors import BrokenStream, CallError, call_error
from clients.resumption import Resumption
from clients.retry import RetryPolicy
from clients.settings import CallSettings, Prompt, Request, as_request
from protos.sluice.v1 import sluice_pb2 as pb
from protos.sluice.v1 import sluice_pb2_grpc

Metadata = Sequence[tuple[str, str]]
Reply = TypeVar("Reply")


class AsyncClient:
    """A connection to one server. Make it, and use it, inside one running event loop.

    Calls are repeated only after errors that say the server did not start (see `clients.retry`);
    answers that were cut off go on where they stopped. Time-outs are in seconds and cover all
    attempts; None leaves only the server's own limit. What is asked is a prompt with settings as
    keywords, or a whole `Request`.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata = (),
        retry: RetryPolicy | None = None,
        token: str | None = None,
    ) -> None:
        """`token` is a bearer token, default SLUICE_TOKEN; `credentials` TLS, default SLUICE_TLS_*.

        Raises:
            DataError: what the environment says cannot be used.
        """
        self.target = target
        self._metadata = (*metadata, *access.token_metadata(token))
        self._retry = retry or RetryPolicy()
        credentials = credentials or access.channel_credentials()
        self._channel = channels.open_channel(target, credentials)
        stubs: Any = sluice_pb2_grpc  # generated, without types
        self._inference = stubs.InferenceStub(self._channel)
        self._control = stubs.ControlStub(self._channel)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; live calls are cancelled."""
        await self._channel.close()

    async def generate(
        self,
        prompt: Prompt | Request,
        *,
        timeout: float | None = None,
        **settings: Unpack[CallSettings],
    ) -> AsyncGenerator[Event, None]:
        """The events of one request: Accepted, then Tokens and Progress, one Finished per output.

        A stream that breaks (UNAVAILABLE) is taken up again where it stopped, with the same seed:
        the caller sees one answer, and `Usage.resumed_tokens` says how much of it an earlier stream
        brought. docs/budgets.md says what a budget changes about it. Several outputs cannot go on.

        Closing the iterator cancels the request; a caller that may leave early should wrap it in
        `contextlib.aclosing`, so that the server hears at once.

        Raises:
            CallError: the call ended with a gRPC status, after the last attempt.
            BrokenStream: the server that would go on is not like the one before.
        """
        clock = _Clock(timeout)
        resumption = Resumption(as_request(prompt, settings).to_proto())
        attempt = 1
        while True:
            try:
                async with aclosing(self._stream(resumption.request(), clock.left())) as events:
                    async for event in events:
                        if isinstance(event, pb.Tokens) and event.ids:
                            attempt = 1  # it goes on: what counts is failing again and again
                        if (seen := resumption.take(event)) is not None:
                            yield seen
                return
            except CallError as error:
                await self._back_off(error, attempt, clock, repeatable=resumption.possible)
            attempt += 1

    async def complete(
        self,
        prompt: Prompt | Request,
        *,
        timeout: float | None = None,
        **settings: Unpack[CallSettings],
    ) -> Completion:
        """The whole answer, taken up where a stream broke, or with several outputs asked anew.

        Raises:
            CallError: the call ended with a gRPC status, after the last attempt.
            BrokenStream: the stream ended with OK but without what the contract promises.
        """
        request = as_request(prompt, settings)
        sent = time.monotonic()

        async def gather(events: AsyncGenerator[Event, None]) -> Completion:
            gatherer = Gatherer(request.num_outputs, sent)
            async with aclosing(events):
                async for event in events:
                    gatherer.add(event, time.monotonic())
            return gatherer.completion()

        if request.num_outputs == 1:
            return await gather(self.generate(request, timeout=timeout))
        message = request.to_proto()
        return await self._repeat(lambda left: gather(self._stream(message, left)), timeout)

    async def server_info(self, *, timeout: float | None = 30.0) -> pb.ServerInfo:
        """The process: version, uptime, limits."""
        ask = self._control.GetServerInfo
        reply: pb.ServerInfo = await self._ask(ask, pb.GetServerInfoRequest(), timeout)
        return reply

    async def model_info(
        self, model: str | None = None, *, timeout: float | None = 30.0
    ) -> pb.ModelInfo:
        """The model, its KV pool and the eviction policies."""
        ask = self._control.GetModelInfo
        reply: pb.ModelInfo = await self._ask(ask, pb.GetModelInfoRequest(model=model), timeout)
        return reply

    async def load(self, *, timeout: float | None = 30.0) -> pb.Load:
        """What runs, waits and is held right now."""
        reply: pb.Load = await self._ask(self._control.GetLoad, pb.GetLoadRequest(), timeout)
        return reply

    async def abort(self, request_id: str | None = None, *, timeout: float | None = 30.0) -> int:
        """Ends one live request, or all of them where no id is given; how many there were."""
        target = pb.AbortRequest(all=True)
        if request_id is not None:
            target = pb.AbortRequest(request_id=request_id)
        reply: pb.AbortResponse = await self._ask(self._control.Abort, target, timeout)
        return reply.aborted

    async def wait_until_serving(self, timeout: float = 60.0) -> None:
        """Returns once the server's health is SERVING; NotServing after `timeout` seconds."""
        await channels.wait_until_serving(self._channel, self.target, timeout)

    async def _stream(
        self, message: pb.GenerateRequest, timeout: float | None
    ) -> AsyncGenerator[Event, None]:
        call = self._inference.Generate(message, timeout=timeout, metadata=self._metadata)
        try:
            async for envelope in call:
                yield _unwrap(envelope)
        except grpc.aio.AioRpcError as error:
            raise call_error(error) from error
        finally:
            call.cancel()  # no effect on a call that has ended

    async def _ask(self, method: Any, message: Any, timeout: float | None) -> Any:
        async def attempt(left: float | None) -> Any:
            try:
                return await method(message, timeout=left, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                raise call_error(error) from error

        return await self._repeat(attempt, timeout)

    async def _repeat(
        self, call: Callable[[float | None], Awaitable[Reply]], timeout: float | None
    ) -> Reply:
        clock = _Clock(timeout)
        attempt = 1
        while True:
            try:
                return await call(clock.left())
            except CallError as error:
                await self._back_off(error, attempt, clock, repeatable=True)
            attempt += 1

    async def _back_off(
        self, error: CallError, attempt: int, clock: "_Clock", *, repeatable: bool
    ) -> None:
        """Sleeps before the next attempt, or raises `error` if there is to be none."""
        delay = self._retry.delay(attempt, error) if repeatable else None
        left = clock.left()
        if delay is None or (left is not None and delay >= left):
            raise error
        await asyncio.sleep(delay)


class _Clock:
    """What is left of a time-out that covers several attempts."""

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)


def _unwrap(envelope: pb.GenerateEvent) -> Event:
    kind = envelope.WhichOneof("event")
    if kind is None:
        raise BrokenStream("got an event this client does not know; is the server newer?")
    event: Event = getattr(envelope, kind)
    return event
