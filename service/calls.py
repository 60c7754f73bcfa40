"""Counts gRPC calls by method and status, whatever ends them.

The outermost interceptor: it sees the status that the caller gets. Knows nothing of what the
methods do.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from service.handlers import Behaviour, rewrapped

UNKNOWN_METHOD = "unknown"  # of all names that are not served: callers choose those
SLACK_SECONDS = 0.05  # the caller's deadline passes before ours, by the way that the call took
CODES = {code.value[0]: code.name for code in grpc.StatusCode}

Count = Callable[[str, str, int], None]
"""(full name of a method, name of a status, calls)"""


class CallCounter(grpc.aio.ServerInterceptor):
    """Tells `count` of every call that ends."""

    def __init__(self, count: Count, services: Iterable[ServiceDescriptor]) -> None:
        """`services` are all that are served. Their methods are counted from zero: of a new series
        the first rise is lost to Prometheus."""
        self._count = count
        methods = [(service, method) for service in services for method in service.methods]
        self._known = {f"{service.full_name}/{method.name}" for service, method in methods}
        for name in self._known:
            for code in grpc.StatusCode:
                count(name, code.name, 0)
        self._counted: dict[str, tuple[Any, Any]] = {}  # name -> its handler, bare and counted

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler = await continuation(handler_call_details)
        name = handler_call_details.method.lstrip("/")
        if name not in self._known:  # it may have a handler all the same, one that denies
            name = UNKNOWN_METHOD
        if handler is None:
            self._count(name, grpc.StatusCode.UNIMPLEMENTED.name, 1)
            return None
        bare, counted = self._counted.get(name, (None, None))
        if bare is not handler:
            counted = _counting(handler, lambda status: self._count(name, status, 1))
            self._counted[name] = handler, counted
        return counted


def _counting(handler: Any, count: Callable[[str], None]) -> Any:
    """The same RPC method handler; `count` is given the name of each call's status."""

    def coroutine(behaviour: Behaviour) -> Behaviour:
        @functools.wraps(behaviour)
        async def counted(request: Any, context: Any) -> Any:
            with _counted(context, count):
                return await behaviour(request, context)

        return counted

    def generator(behaviour: Behaviour) -> Behaviour:
        @functools.wraps(behaviour)
        async def counted(request: Any, context: Any) -> AsyncIterator[Any]:
            with _counted(context, count):
                async for response in behaviour(request, context):
                    yield response

        return counted

    return rewrapped(handler, coroutine, generator)


@contextmanager
def _counted(context: Any, count: Callable[[str], None]) -> Iterator[None]:
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
        raise
    finally:
        count(_status(context, error))


def _status(context: Any, error: BaseException | None) -> str:
    """Of a call whose handler has ended, with `error` or without."""
    code = context.code()
    number = code.value[0] if isinstance(code, grpc.StatusCode) else int(code or 0)
    if number or error is None:
        return CODES.get(number, "UNKNOWN")
    if isinstance(error, asyncio.CancelledError | GeneratorExit) or context.done():
        left = context.time_remaining()
        passed = left is not None and left <= SLACK_SECONDS
        return "DEADLINE_EXCEEDED" if passed else "CANCELLED"
    return "UNKNOWN"
