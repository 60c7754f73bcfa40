"""The last line of defence around every method: garbage in, and errors nobody foresaw.

Left to itself grpc.aio answers both with UNKNOWN and the repr() of a Python exception, and takes
metadata of any size up to 16 MiB. Knows nothing of what the methods do.
"""

import functools
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from service import errors
from service.handlers import refusing, rewrapped

log = logging.getLogger(__name__)

GARBAGE = object()  # stands for a message that could not be parsed
MAX_METADATA_BYTES = 16384  # of a call, counted as HTTP/2 does; callers' libraries are told
FIELD_BYTES = 32  # that HTTP/2 counts for each field beside its name and value


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of all services, health and reflection included."""

    def __init__(self) -> None:
        self._guarded: dict[str, Any] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        if _size(handler_call_details.invocation_metadata or ()) > MAX_METADATA_BYTES:
            return TOO_LARGE
        method = handler_call_details.method
        if method not in self._guarded:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None  # UNIMPLEMENTED; not kept, or unknown names would fill the memory
            self._guarded[method] = guard(handler)
        return self._guarded[method]


def _size(metadata: Any) -> int:
    return sum(len(name) + len(value) + FIELD_BYTES for name, value in metadata)


TOO_LARGE = refusing(
    grpc.StatusCode.RESOURCE_EXHAUSTED, errors.METADATA_TEXT.format(MAX_METADATA_BYTES)
)


def guard(handler: Any) -> Any:
    """The same RPC method handler with its deserialiser and behaviour guarded."""
    streaming = handler.request_streaming
    return rewrapped(
        handler,
        lambda behaviour: _guard_coroutine(behaviour, streaming),
        lambda behaviour: _guard_generator(behaviour, streaming),
        _guard_deserializer(handler.request_deserializer),
    )


def _guard_deserializer(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def guarded(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return GARBAGE

    return guarded


def _guard_coroutine(behaviour: Callable[..., Any], streaming: bool) -> Callable[..., Any]:
    @functools.wraps(behaviour)
    async def guarded(request: Any, context: Any) -> Any:
        try:
            return await behaviour(await _checked(request, context, streaming), context)
        except Exception as error:  # noqa: BLE001 - its purpose: whatever it is, it must not leak
            await _end(error, context)

    return guarded


def _guard_generator(behaviour: Callable[..., Any], streaming: bool) -> Callable[..., Any]:
    @functools.wraps(behaviour)
    async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in behaviour(await _checked(request, context, streaming), context):
                yield response
        except Exception as error:  # noqa: BLE001 - its purpose: whatever it is, it must not leak
            await _end(error, context)

    return guarded


async def _checked(request: Any, context: Any, streaming: bool) -> Any:
    if streaming:
        return _checked_stream(request, context)
    if request is GARBAGE:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, errors.GARBAGE_TEXT)
    return request


async def _checked_stream(requests: Any, context: Any) -> AsyncIterator[Any]:
    async for request in requests:
        yield await _checked(request, context, streaming=False)


async def _end(error: Exception, context: Any) -> None:
    """Ends the call: with the status of a domain error, else with INTERNAL and a generic text."""
    if isinstance(error, errors.ServiceError):
        await errors.abort(context, error)
    if isinstance(error, grpc.aio.AbortError | grpc.aio.InternalError) or context.done():
        raise error  # ended already, or the client is gone: grpc.aio knows what to do
    name = secrets.token_hex(4)  # by which the caller's report finds the cause in the log
    log.error("internal error %s in a handler", name, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, errors.INTERNAL_TEXT.format(name))
