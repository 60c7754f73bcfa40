"""A gRPC client that costs next to nothing, so that a load test measures the server.

grpc's own Python client takes about as much CPU time per message as the server does. This one
speaks just enough HTTP/2 for server streams of sluice.v1.Inference/Generate over plain TCP: no
header decoding, no flow control (its windows are 2 GiB), one thread, no back-pressure. Counts on
the Finished events that it waits for, since it does not read gRPC statuses.
"""

import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence

from clients.sdk import Finished, Tokens

PATH = b"/sluice.v1.Inference/Generate"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
FRAME = 9  # bytes of a frame's header
PREFIX = 5  # bytes before a gRPC message: not compressed, length
TOKENS, FINISHED = 0x12, 0x22  # first byte of a GenerateEvent: the field that is set
LARGEST_WINDOW = 2**31 - 1
INITIAL_WINDOW = 2**16 - 1
READ_BYTES = 1 << 18

OnTokens = Callable[[float, int, Tokens], None]
"""(time.monotonic() of arrival, index of the request, what came)."""


class LoadFailed(Exception):
    """A stream or a connection ended early."""


class LoadClient:
    """Streams requests over some connections, all at once, from the calling thread."""

    def __init__(self, target: str, connections: int, on_tokens: OnTokens) -> None:
        """`target` is host:port."""
        self._target = target
        self._on_tokens = on_tokens
        self._connections = [_Connection(target) for _ in range(connections)]
        self._unfinished: set[int] = set()

    def run(self, requests: Sequence[bytes], until: Callable[[], bool] = lambda: False) -> None:
        """Sends encoded GenerateRequests; returns when all have finished or `until` says so.

        Raises:
            LoadFailed: a stream ended without Finished, or its connection did.
        """
        self._unfinished = set(range(len(requests)))
        with selectors.DefaultSelector() as selector:
            for connection in self._connections:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
            for index, request in enumerate(requests):
                self._connections[index % len(self._connections)].ask(index, request)
            while self._unfinished and not until():
                for key, _ in selector.select(timeout=1.0):
                    self._read(key.data)

    def close(self) -> None:
        """Ends the connections; requests that live end with them."""
        for connection in self._connections:
            connection.socket.close()

    def _read(self, connection: "_Connection") -> None:
        messages = connection.receive()
        now = time.monotonic()
        for index, message in messages:
            if message[0] == TOKENS:
                self._on_tokens(now, index, Tokens.FromString(_field(message)))
            elif message[0] == FINISHED:
                Finished.FromString(_field(message))
                self._unfinished.discard(index)
        for index in connection.ended:
            if index in self._unfinished:
                raise LoadFailed(f"{self._target} ended request {index} without Finished")
        connection.ended.clear()


class _Connection:
    """One HTTP/2 connection."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ended: list[int] = []  # requests whose streams have, since somebody looked
        self._headers = _headers(target)
        self._index: dict[int, int] = {}  # of the request, by stream
        self._partial: dict[int, bytes] = {}  # the beginning of a message, by stream
        self._unread = b""
        self._next_stream = 1
        settings = struct.pack(">HI", 0x4, LARGEST_WINDOW)  # SETTINGS_INITIAL_WINDOW_SIZE
        window = struct.pack(">I", LARGEST_WINDOW - INITIAL_WINDOW)
        self.socket.sendall(
            PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, window)
        )

    def ask(self, index: int, request: bytes) -> None:
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._index[stream] = index
        message = struct.pack(">BI", 0, len(request)) + request
        self.socket.sendall(
            _frame(HEADERS, END_HEADERS, stream, self._headers)
            + _frame(DATA, END_STREAM, stream, message)
        )

    def receive(self) -> list[tuple[int, bytes]]:
        """Messages that have arrived, with the index of their request; waits for some bytes."""
        received = self.socket.recv(READ_BYTES)
        if not received:
            raise LoadFailed("the server closed the connection")
        data = self._unread + received
        messages: list[tuple[int, bytes]] = []
        at = 0
        while at + FRAME <= len(data):
            size = int.from_bytes(data[at : at + 3], "big")
            end = at + FRAME + size
            if end > len(data):
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + FRAME], "big")
            if kind == DATA:
                self._take(stream, data[at + FRAME : end], messages)
            else:
                self._control(kind, flags, data[at + FRAME : end])
            if (kind in (DATA, HEADERS) and flags & END_STREAM) or kind == RESET:
                self.ended.append(self._index[stream])
            at = end
        self._unread = data[at:]
        return messages

    def _take(self, stream: int, payload: bytes, messages: list[tuple[int, bytes]]) -> None:
        payload = self._partial.pop(stream, b"") + payload
        at = 0
        while at + PREFIX <= len(payload):
            end = at + PREFIX + int.from_bytes(payload[at + 1 : at + PREFIX], "big")
            if end > len(payload):
                break
            messages.append((self._index[stream], payload[at + PREFIX : end]))
            at = end
        if at < len(payload):
            self._partial[stream] = payload[at:]

    def _control(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == GOAWAY:
            raise LoadFailed("the server said goodbye")
        if kind == SETTINGS and not flags & ACK:
            self.socket.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(_frame(PING, ACK, 0, payload))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _headers(target: str) -> bytes:
    """A call's header block: entries of HPACK's static table, literals without indexing."""
    method, scheme = b"\x83", b"\x86"  # POST, http
    return b"".join(
        [
            method,
            scheme,
            b"\x04" + _string(PATH),
            b"\x01" + _string(target.encode()),  # :authority
            b"\x0f\x10" + _string(b"application/grpc"),  # content-type
            b"\x00" + _string(b"te") + _string(b"trailers"),
        ]
    )


def _string(value: bytes) -> bytes:
    if len(value) > 126:
        raise ValueError(f"a header value has {len(value)} bytes; at most 126 are encoded here")
    return bytes([len(value)]) + value


def _field(event: bytes) -> bytes:
    """The one field of an encoded GenerateEvent, without its tag and length."""
    at = 1
    while event[at] & 0x80:
        at += 1
    return event[at + 1 :]
