"""Counts gRPC calls by method and status, whatever ends them.

The outermost interceptor: it sees the status that the caller gets. Knows nothing of what the
methods do.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

UNKNOWN_METHOD = "unknown"  # of all names that are not served: callers choose those
SLACK_SECONDS = 0.05  # the caller's deadline passes before ours, by the way that the call took
CODES = {code.value[0]: code.name for code in grpc.StatusCode}

Count = Callable[[str, str, int], None]
"""(full name of a method, name of a status, calls)"""


class CallCounter(grpc.aio.ServerInterceptor):
    """Tells `count` of every call that ends."""

    def __init__(self, count: Count, services: Iterable[ServiceDescriptor]) -> None:
        """The methods of `services` are counted from zero: of a new series the first rise is
        lost to Prometheus."""
        for service in services:
            for method in service.methods:
                for code in grpc.StatusCode:
                    count(f"{service.full_name}/{method.name}", code.name, 0)
        self._count = count
        self._counted: dict[str, tuple[Any, Any]] = {}  # method -> its handler, bare and counted

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            self._count(UNKNOWN_METHOD, grpc.StatusCode.UNIMPLEMENTED.name, 1)
            return None
        method = handler_call_details.method
        bare, counted = self._counted.get(method, (None, None))
        if bare is not handler:
            name = method.lstrip("/")
            counted = _counting(handler, lambda status: self._count(name, status, 1))
            self._counted[method] = handler, counted
        return counted


def _counting(handler: Any, count: Callable[[str], None]) -> Any:
    """The same RPC method handler; `count` is given the name of each call's status."""
    kind = ("stream" if handler.request_streaming else "unary") + (
        "_stream" if handler.response_streaming else "_unary"
    )
    behaviour = getattr(handler, kind)
    wrap = _count_generator if inspect.isasyncgenfunction(behaviour) else _count_coroutine
    return getattr(grpc, f"{kind}_rpc_method_handler")(
        wrap(behaviour, count),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _count_coroutine(behaviour: Callable[..., Any], count: Callable[[str], None]) -> Any:
    @functools.wraps(behaviour)
    async def counted(request: Any, context: Any) -> Any:
        error: BaseException | None = None
        try:
            return await behaviour(request, context)
        except BaseException as caught:
            error = caught
            raise
        finally:
            count(_status(context, error))

    return counted


def _count_generator(behaviour: Callable[..., Any], count: Callable[[str], None]) -> Any:
    @functools.wraps(behaviour)
    async def counted(request: Any, context: Any) -> AsyncIterator[Any]:
        error: BaseException | None = None
        try:
            async for response in behaviour(request, context):
                yield response
        except BaseException as caught:
            error = caught
            raise
        finally:
            count(_status(context, error))

    return counted


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
