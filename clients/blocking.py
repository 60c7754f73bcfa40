"""The SDK for callers without an event loop: the same client, driven from outside its loop."""

import asyncio
import threading
from collections.abc import Coroutine, Generator
from functools import cache
from types import TracebackType
from typing import Any, TypeVar, Unpack

import grpc

from clients.async_client import AsyncClient, Metadata
from clients.completion import Completion, Event
from clients.retry import RetryPolicy
from clients.settings import CallSettings, Prompt, Request
from protos.sluice.v1 import sluice_pb2 as pb

Result = TypeVar("Result")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One loop in one daemon thread for all clients: grpc.aio dislikes several loops a process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="sluice-client", daemon=True).start()
    return loop


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()  # a Ctrl-C here must reach the call over there
        raise


class Client:
    """`AsyncClient` with blocking calls; see there for arguments, results and errors.

    May be used from several threads. Not for code that runs in an event loop of its own.
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
        async def connect() -> AsyncClient:
            return AsyncClient(
                target, credentials=credentials, metadata=metadata, retry=retry, token=token
            )

        self._client = _run(connect())

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; live calls are cancelled."""
        _run(self._client.close())

    def generate(
        self,
        prompt: Prompt | Request,
        *,
        timeout: float | None = None,
        **settings: Unpack[CallSettings],
    ) -> Generator[Event, None, None]:
        """The events of one request; closing the iterator cancels it."""
        events = self._client.generate(prompt, timeout=timeout, **settings)
        try:
            while (event := _run(_next(events))) is not None:
                yield event
        finally:
            _run(events.aclose())

    def complete(
        self,
        prompt: Prompt | Request,
        *,
        timeout: float | None = None,
        **settings: Unpack[CallSettings],
    ) -> Completion:
        """The whole answer."""
        return _run(self._client.complete(prompt, timeout=timeout, **settings))

    def server_info(self) -> pb.ServerInfo:
        """The process: version, uptime, limits."""
        return _run(self._client.server_info())

    def model_info(self, model: str | None = None) -> pb.ModelInfo:
        """The model, its KV pool and the eviction policies."""
        return _run(self._client.model_info(model))

    def load(self) -> pb.Load:
        """What runs, waits and is held right now."""
        return _run(self._client.load())

    def abort(self, request_id: str | None = None) -> int:
        """Ends one live request, or all; how many there were."""
        return _run(self._client.abort(request_id))

    def wait_until_serving(self, timeout: float = 60.0) -> None:
        """Returns once the server's health is SERVING."""
        _run(self._client.wait_until_serving(timeout))


async def _next(events: Any) -> Event | None:
    return await anext(events, None)
