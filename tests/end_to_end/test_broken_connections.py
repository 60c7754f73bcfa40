"""The connection breaks in the middle of answers, or the engine does: the SDK has them whole."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from clients.channel import CHANNEL_OPTIONS
from clients.local_server import LocalServer, local_servers
from clients.sdk import AsyncClient, Completion, Request, Stopping, TokenIds
from tests.end_to_end.disturbance import disturbed, kill_engine, undisturbed
from tests.end_to_end.fault_proxy import FaultProxy, faults_before
from tests.service.harness import Caller, fake_tokens, ids_request
from tests.service.scale import SCALE

STREAMS, TOKENS = 64, 100
QUICK = {  # the SDK notices a silent connection after 30 s; here after 3
    "grpc.keepalive_time_ms": 1000,
    "grpc.keepalive_timeout_ms": 2000,
    "grpc.http2.ping_timeout_ms": 2000,
}
FAULTS: dict[str, Callable[[FaultProxy], None]] = {
    "reset": FaultProxy.reset,
    "half close": FaultProxy.half_close,
    "stall": FaultProxy.stall,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    logs = tmp_path_factory.mktemp("logs")
    options = ["--fake-step-seconds", "0.01", "--no-metrics"]
    with asyncio.Runner() as runner:
        context = local_servers(["fake"], logs, options)
        [started] = runner.run(context.__aenter__())
        yield started
        runner.run(context.__aexit__(None, None, None))
    assert "Traceback" not in started.log.read_text()


@pytest.fixture(scope="module")
def expected(server: LocalServer) -> list[Completion]:
    """The answers when nothing breaks."""
    return asyncio.run(undisturbed(server.target, asked(STREAMS)))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    options = tuple({**dict(CHANNEL_OPTIONS), **QUICK}.items())
    monkeypatch.setattr("clients.channel.CHANNEL_OPTIONS", options)


def asked(count: int) -> list[Request]:
    stopping = Stopping(max_tokens=TOKENS)
    return [Request(TokenIds((number, 3)), stopping=stopping) for number in range(count)]


def check(found: list[Completion], expected: list[Completion]) -> None:
    """The answers are those of an undisturbed run, and were taken up in the middle."""
    for number, (after, before) in enumerate(zip(found, expected, strict=True)):
        assert list(after.output.token_ids) == fake_tokens([number, 3], TOKENS)
        assert after.output.token_ids == before.output.token_ids
        assert after.text == before.text
        assert before.usage.resumed_tokens == 0
        assert after.usage.resumed_tokens >= 30
        assert after.usage.completion_tokens == TOKENS


async def idle(server: LocalServer) -> None:
    """Returns once nothing is held; the test's own limit ends the wait."""
    async with AsyncClient(server.target) as client:
        while True:
            load = await client.load()
            if not any((load.running, load.waiting, load.blocks_used, load.blocks_promised)):
                return
            await asyncio.sleep(0.05)


def test_64_answers_survive_their_engine(server: LocalServer, expected: list[Completion]) -> None:
    async def scenario() -> None:
        requests = asked(STREAMS)
        for _ in range(min(SCALE, 4)):  # five deaths in a minute would end the service
            found = await disturbed(server.target, requests, lambda: kill_engine(server))
            check(found, expected)
        await idle(server)

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("quick")
def test_answers_survive_their_connection(
    server: LocalServer, expected: list[Completion], fault: str
) -> None:
    async def scenario() -> None:
        requests = asked(16)
        for _ in range(SCALE):
            async with faults_before(server.target) as proxy:
                found = await disturbed(proxy.address, requests, lambda: FAULTS[fault](proxy))
                assert proxy.connections > 1, "the connection was not broken"
            check(found, expected[:16])
        await idle(server)

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_connection_is_unavailable(server: LocalServer, fault: str) -> None:
    """What a client without the SDK sees."""

    async def scenario() -> None:
        async with faults_before(server.target) as proxy:
            options: Any = tuple(QUICK.items())
            async with grpc.aio.insecure_channel(proxy.address, options=options) as channel:
                stream = await Caller(channel).begin(ids_request([1], 20_000))
                FAULTS[fault](proxy)
                assert await stream.code() == grpc.StatusCode.UNAVAILABLE
        await idle(server)

    asyncio.run(scenario())
