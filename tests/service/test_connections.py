"""What a connection may cost: silence, large metadata, more streams than it may have."""

import asyncio
import struct
from contextlib import suppress

import grpc
import pytest

from service.errors import METADATA_TEXT
from service.guard import MAX_METADATA_BYTES
from service.ports import STREAMS_PER_CONNECTION
from tests.service.harness import (
    Caller,
    Harness,
    config,
    eventually,
    fake_tokens,
    ids_request,
)
from tests.service.scale import SCALE
from tests.service.test_abuse import PREFACE, frame

SILENT = min(60 * SCALE, 1000)
LIMIT, CALLS = (STREAMS_PER_CONNECTION, 10_000) if SCALE > 1 else (64, 400)
HEADERS, PING, CONTINUATION = 1, 6, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def test_connections_that_say_nothing_are_closed(launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.ports.HANDSHAKE_MS", 1000)
    harness: Harness = launch(config(0.02))
    host, _, port = harness.address.rpartition(":")

    async def silent() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            while await reader.read(1 << 16):  # the server's settings, then its goodbye
                pass
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def scenario() -> None:
        strangers = [asyncio.create_task(silent()) for _ in range(SILENT)]
        assert (await harness.answer(ids_request([1], 40))).ids[0] == fake_tokens([1], 40)
        await asyncio.wait_for(asyncio.gather(*strangers), 30)

    harness.run(scenario())


def test_metadata_of_20_kb_ends_its_call_alone(slow: Harness) -> None:
    """Here the caller's own library knows the server's limit."""

    async def scenario() -> None:
        stream = await slow.begin(ids_request([1], 60))
        error = await slow.refusal(ids_request([1], 1), metadata=[("x-large", "v" * 20_000)])
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        while not (event := await stream.read()).HasField("finished"):
            pass
        assert event.finished.usage.completion_tokens == 60
        await eventually(slow.is_idle)

    slow.run(scenario())


def test_metadata_within_the_limit_is_served(fast: Harness) -> None:
    metadata = [("x-large", "v" * (MAX_METADATA_BYTES - 1000))]
    answer = fast.run(fast.answer(ids_request([1], 3), metadata=metadata))
    assert answer.ids[0] == fake_tokens([1], 3)


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that no table has, RFC 7541 6.2.2."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, length = [], len(text) - 127
    while length >= 128:
        rest.append(length % 128 + 128)
        length //= 128
    return bytes([127, *rest, length]) + text


async def frames(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    """The next frame: kind, flags, stream, payload."""
    head = await reader.readexactly(9)
    size, kind, flags, stream = (
        struct.unpack(">I", b"\0" + head[:3])[0],
        *struct.unpack(">BBI", head[3:]),
    )
    return kind, flags, stream, await reader.readexactly(size)


def test_metadata_of_20_kb_is_refused_by_the_server(slow: Harness) -> None:
    """A caller that heeds no limits: its stream is refused, and its connection lives on."""
    host, _, port = slow.address.rpartition(":")
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/sluice.v1.Control/GetLoad",
        b":authority": b"x",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"x-large": b"v" * 20_000,
    }
    block = b"".join(literal(name, value) for name, value in fields.items())

    async def scenario() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREFACE + frame(4, 0, 0, b""))
        writer.write(frame(HEADERS, 0, 1, block[:16_000]))
        writer.write(frame(CONTINUATION, END_HEADERS, 1, block[16_000:]))
        writer.write(frame(0, END_STREAM, 1, b"\0\0\0\0\0"))
        seen = [await frames(reader)]
        while seen[-1][2] != 1 or not seen[-1][1] & END_STREAM:
            seen.append(await frames(reader))
        assert b"grpc-status\x018" in seen[-1][3]  # RESOURCE_EXHAUSTED
        assert METADATA_TEXT.format(MAX_METADATA_BYTES).encode() in seen[-1][3]
        writer.write(frame(PING, 0, 0, b"pingpong"))
        while seen[-1][0] != PING or seen[-1][1] != ACK:
            seen.append(await frames(reader))
        writer.close()
        await writer.wait_closed()

    slow.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.timeout(300)
def test_more_streams_than_a_connection_may_have(launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are asked at once; they are served in turn, and another connection does not wait."""
    monkeypatch.setattr("service.ports.STREAMS_PER_CONNECTION", LIMIT)
    harness: Harness = launch(config(0.005, max_running=64, kv_blocks=4096))
    most = 0

    async def ask(number: int) -> None:
        nonlocal most
        prompt = [number % 256, number // 256]
        answer = await harness.answer(ids_request(prompt, 20), timeout=200)
        most = max(most, len(harness.server.live))
        assert answer.ids[0] == fake_tokens(prompt, 20)

    async def scenario() -> None:
        asked = [asyncio.create_task(ask(number)) for number in range(CALLS)]
        own = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(harness.address, options=own) as channel:
            await Caller(channel).load()
            assert not all(task.done() for task in asked), "it waited for all the others"
        await asyncio.gather(*asked)
        await eventually(harness.is_idle)

    harness.run(scenario())
    assert 1 < most <= LIMIT
