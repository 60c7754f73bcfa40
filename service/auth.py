"""Who calls: a bearer token in the metadata, asked for on every method of every service but health.

Checked before a method is looked up and before its message is parsed, so that a caller without a
token learns nothing, not even which methods there are.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from engine.messages import Tenant
from service.errors import UNAUTHENTICATED_TEXT
from service.handlers import refusing
from service.reloading import Reloading
from service.tenants import Tenants

HEADER = "authorization"
SCHEME = "bearer"
OPEN = "/grpc.health.v1.Health"  # load balancers and probes have no token

_caller: ContextVar[Tenant] = ContextVar("caller")


def caller() -> Tenant:
    """The tenant of the call that is handled; the one without a name where tokens are off."""
    return _caller.get(Tenant())


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Denies whatever has no valid token. The first of the interceptors."""

    def __init__(self, tenants: Reloading[Tenants]) -> None:
        self._tenants = tenants

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        if handler_call_details.method.rpartition("/")[0] != OPEN:
            token = _token(handler_call_details.invocation_metadata or ())
            tenant = None if token is None else self._tenants.value.find(token)
            if tenant is None:
                return DENIAL
            _caller.set(tenant)  # the handler runs in this very task
        return await continuation(handler_call_details)


def _token(metadata: Any) -> bytes | None:
    """The one bearer token; None if there is none or more than one."""
    values = [value for key, value in metadata if key.lower() == HEADER]
    if len(values) != 1:
        return None
    scheme, _, token = values[0].partition(" ")
    return token.strip().encode() if scheme.lower() == SCHEME and token.strip() else None


DENIAL = refusing(grpc.StatusCode.UNAUTHENTICATED, UNAUTHENTICATED_TEXT)
