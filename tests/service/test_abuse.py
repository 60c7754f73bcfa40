"""Connections that speak no gRPC, or stop in the middle: others are served, nothing stays."""

import asyncio
import random
import struct

from tests.service.harness import Harness, eventually, fake_tokens, ids_request
from tests.service.scale import SCALE, SEED

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CONNECTIONS = 60 * SCALE
AT_ONCE = 60


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def greeting(number: int, rng: random.Random) -> bytes:
    """What a stranger says."""
    settings = PREFACE + frame(4, 0, 0, b"")
    return [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        rng.randbytes(500),
        PREFACE[: rng.randrange(len(PREFACE))],
        PREFACE + rng.randbytes(200),
        settings + frame(1, 0x4, 1, rng.randbytes(40)),  # HEADERS that are none
        settings + frame(0, 0x1, 1, b"data without headers"),
        settings + b"".join(frame(3, 0, 2 * i + 1, b"\0\0\0\x08") for i in range(200)),  # resets
        settings + frame(9, 0, 1, b"x" * 100) * 20,  # CONTINUATION of nothing
        settings + frame(6, 0, 0, b"pingpong") * 200,
    ][number % 10]


def test_strangers_do_not_disturb(fast: Harness) -> None:
    rng = random.Random(SEED)
    host, _, port = fast.address.rpartition(":")

    async def stranger(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(greeting(number, rng))
            await writer.drain()
            await asyncio.wait_for(reader.read(1 << 16), 0.3)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            if number % 2:
                writer.transport.abort()  # a reset, not a goodbye
            else:
                writer.close()

    async def scenario() -> None:
        for first in range(0, CONNECTIONS, AT_ONCE):
            strangers = [asyncio.create_task(stranger(first + i)) for i in range(AT_ONCE)]
            for prompt in ([1], [2, 3], [4]):
                answer = await fast.answer(ids_request(prompt, 200), timeout=30)
                assert answer.ids[0] == fake_tokens(prompt, 200)
            await asyncio.gather(*strangers)
        await eventually(fast.is_idle)

    fast.run(scenario())


def test_a_connection_that_opens_and_resets_streams_costs_no_others(fast: Harness) -> None:
    """Rapid reset: calls that are cancelled as soon as they are made."""

    async def scenario() -> None:
        for _ in range(20 * SCALE):
            calls = [fast.inference.Generate(ids_request([7, i], 500)) for i in range(100)]
            for call in calls:
                call.cancel()
            answer = await fast.answer(ids_request([1], 20), timeout=30)
            assert answer.ids[0] == fake_tokens([1], 20)
        await eventually(fast.is_idle)
        assert len(fast.server.live) == 0

    fast.run(scenario())
