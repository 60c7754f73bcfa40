"""A TCP proxy whose connections can be broken, as networks do it."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

AT_ONCE = 1 << 16  # bytes
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # linger on, for no time: close() sends RST


class FaultProxy:
    """Forwards to `target`; each fault hits the connections that are open when it comes."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._flowing: list[asyncio.Event] = []  # by connection; cleared: nothing passes
        self._callers: list[asyncio.StreamWriter] = []
        self._servers: list[asyncio.StreamWriter] = []
        self.address = ""
        self.connections = 0  # so far

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    def stall(self) -> None:
        """From here on nothing passes in either direction, and nobody is told."""
        for flowing in self._flowing:
            flowing.clear()

    def reset(self) -> None:
        """Both ends get RST."""
        for writer in (*self._callers, *self._servers):
            raw: socket.socket = writer.get_extra_info("socket")
            if raw.fileno() >= 0:  # else it is closed already, and about to be forgotten
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                writer.transport.abort()

    def half_close(self) -> None:
        """The caller reads the end of the stream; what it sends is still taken."""
        for writer in self._callers:
            writer.write_eof()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        theirs, ours = await asyncio.open_connection(self._host, self._port)
        flowing = asyncio.Event()
        flowing.set()
        self._flowing.append(flowing)
        self._callers.append(writer)
        self._servers.append(ours)
        try:
            await asyncio.gather(_copy(reader, ours, flowing), _copy(theirs, writer, flowing))
        finally:
            writer.transport.abort()
            ours.transport.abort()
            for known, each in (
                (self._flowing, flowing),
                (self._callers, writer),
                (self._servers, ours),
            ):
                known.remove(each)  # type: ignore[arg-type]


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # an end that was broken
        while data := await reader.read(AT_ONCE):
            await flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@contextlib.asynccontextmanager
async def faults_before(target: str) -> AsyncIterator[FaultProxy]:
    """A proxy in front of `target` while the context is open."""
    proxy = FaultProxy(target)
    server = await proxy.serve()
    try:
        yield proxy
    finally:
        server.close()
        proxy.reset()
        await asyncio.sleep(0)
