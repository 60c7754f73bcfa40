"""The live requests by name, from their arrival to the end of their handler."""

from collections.abc import Iterator

from service.engine_client import EngineClient
from service.errors import DuplicateRequest, ServiceError
from service.stream import RequestStream


class LiveRequests:
    """Names are unique among what is live."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._streams: dict[str, RequestStream] = {}

    def __iter__(self) -> Iterator[RequestStream]:
        return iter(list(self._streams.values()))

    def __len__(self) -> int:
        return len(self._streams)

    def get(self, request_id: str) -> RequestStream | None:
        return self._streams.get(request_id)

    def add(self, stream: RequestStream) -> None:
        """Takes the stream's name.

        Raises:
            DuplicateRequest: a live request has it.
        """
        if stream.request_id in self._streams:
            raise DuplicateRequest(stream.request_id)
        self._streams[stream.request_id] = stream

    def remove(self, stream: RequestStream) -> None:
        """Frees the name and the engine's share of the request. Idempotent."""
        if self._streams.get(stream.request_id) is stream:
            del self._streams[stream.request_id]
        self._client.release(stream)

    def end(self, stream: RequestStream, error: ServiceError) -> None:
        """Ends a request from this side: its stream fails with `error`, its KV is freed now."""
        stream.fail(error)
        self.remove(stream)
