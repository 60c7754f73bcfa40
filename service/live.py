"""The live requests by tenant and name, from their arrival to the end of their handler."""

from collections.abc import Iterator

from service.engine_client import EngineClient
from service.errors import DuplicateRequest, ServiceError
from service.stream import RequestStream


class LiveRequests:
    """Names are unique among what is live of a tenant; no tenant meets those of another."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._streams: dict[tuple[str, str], RequestStream] = {}

    def __iter__(self) -> Iterator[RequestStream]:
        return iter(list(self._streams.values()))

    def __len__(self) -> int:
        return len(self._streams)

    def get(self, tenant: str, request_id: str) -> RequestStream | None:
        return self._streams.get((tenant, request_id))

    def of(self, tenant: str) -> list[RequestStream]:
        """All live requests of a tenant."""
        return [stream for stream in self if stream.tenant == tenant]

    def add(self, stream: RequestStream) -> None:
        """Takes the stream's name.

        Raises:
            DuplicateRequest: a live request of the tenant has it.
        """
        if _name(stream) in self._streams:
            raise DuplicateRequest(stream.request_id)
        self._streams[_name(stream)] = stream

    def remove(self, stream: RequestStream) -> None:
        """Frees the name and the engine's share of the request. Idempotent."""
        if self._streams.get(_name(stream)) is stream:
            del self._streams[_name(stream)]
        self._client.release(stream)

    def end(self, stream: RequestStream, error: ServiceError) -> None:
        """Ends a request from this side: its stream fails with `error`, its KV is freed now."""
        stream.fail(error)
        self.remove(stream)


def _name(stream: RequestStream) -> tuple[str, str]:
    return stream.tenant, stream.request_id
