"""The handlers of gRPC methods, made anew around another behaviour. For interceptors."""

import inspect
from collections.abc import Callable
from typing import Any

import grpc

Behaviour = Callable[[Any, Any], Any]
"""What a servicer's method does: a coroutine function, or an asynchronous generator."""


def rewrapped(
    handler: Any,
    coroutine: Callable[[Behaviour], Behaviour],
    generator: Callable[[Behaviour], Behaviour],
    deserializer: Callable[[bytes], Any] | None = None,
) -> Any:
    """The same RPC method handler with its behaviour wrapped by the one of the two that suits it.

    `deserializer` takes the place of its own.
    """
    kind = ("stream" if handler.request_streaming else "unary") + (
        "_stream" if handler.response_streaming else "_unary"
    )
    behaviour = getattr(handler, kind)
    wrap = generator if inspect.isasyncgenfunction(behaviour) else coroutine
    return getattr(grpc, f"{kind}_rpc_method_handler")(
        wrap(behaviour),
        request_deserializer=deserializer or handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def refusing(status: grpc.StatusCode, text: str) -> Any:
    """A handler that ends every call with `status`.

    Of the kind that reads no message, which suits callers of every kind: what they get is a status.
    """

    async def refuse(requests: Any, context: Any) -> None:
        await context.abort(status, text)

    return grpc.stream_stream_rpc_method_handler(refuse)
