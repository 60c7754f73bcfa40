"""What a service answers while its model loads, and how a start ends that comes to nothing."""

import asyncio
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.sluice.v1 import sluice_pb2 as pb
from service.config import ServiceConfig
from service.engine_client import EngineFailed
from service.ports import StartError
from service.server import Server
from tests.service import engines
from tests.service.harness import Harness, config, details, eventually, fake_tokens, ids_request

ROOT = Path(__file__).parents[2]
NAMES = ("", "sluice.v1.Inference", "sluice.v1.Control")
Status = health_pb2.HealthCheckResponse


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The engine loads until this file is there."""
    path = tmp_path / "gate"
    monkeypatch.setenv(engines.GATE, str(path))
    return path


@asynccontextmanager
async def loading(runner: asyncio.Runner, service: ServiceConfig) -> AsyncIterator[Any]:
    """A harness whose engine loads, and the task of its start."""
    server = Server(service, target=engines.gated)
    starting = asyncio.create_task(server.start())

    async def port() -> int:
        return server.port

    try:
        address = f"127.0.0.1:{await eventually(port)}"
        async with grpc.aio.insecure_channel(address) as channel:
            yield Harness(channel, runner, server), starting
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await server.stop(None)


async def health(harness: Harness) -> list[str]:
    """Of every service."""
    stub = health_pb2_grpc.HealthStub(harness.channel)
    requests = [health_pb2.HealthCheckRequest(service=name) for name in NAMES]
    answers = [await stub.Check(request, wait_for_ready=True) for request in requests]
    return [Status.ServingStatus.Name(answer.status) for answer in answers]


async def engine_up(harness: Harness) -> float:
    """As Prometheus reads it."""
    url = f"http://127.0.0.1:{harness.server.metrics_port}/metrics"
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=20).read().decode())
    return float(page.partition("\nsluice_engine_up ")[2].split()[0])


def test_probes_are_answered_before_the_model_is_there(runner: asyncio.Runner, gate: Path) -> None:
    async def scenario() -> None:
        async with loading(runner, config(metrics_port=0)) as (harness, starting):
            assert await health(harness) == ["NOT_SERVING"] * 3
            assert await engine_up(harness) == 0
            stub = health_pb2_grpc.HealthStub(harness.channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == Status.NOT_SERVING
            assert not starting.done()
            gate.touch()
            assert (await watch.read()).status == Status.SERVING
            watch.cancel()
            await starting
            assert await health(harness) == ["SERVING"] * 3
            assert await engine_up(harness) == 1
            assert (await harness.answer(ids_request([1], 3))).ids[0] == fake_tokens([1], 3)

    runner.run(scenario())


def test_what_a_service_without_a_model_says(runner: asyncio.Runner, gate: Path) -> None:
    async def scenario() -> None:
        async with loading(runner, config()) as (harness, starting):
            error = await harness.refusal(ids_request([1], 3), wait_for_ready=True)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await harness.control.GetModelInfo(pb.GetModelInfoRequest())
            for refused in (error, caught.value):
                assert refused.code() == grpc.StatusCode.UNAVAILABLE
                assert refused.details() == "the model is loading; retry"
                assert details(refused) == ([], 1.0)
            info = await harness.control.GetServerInfo(pb.GetServerInfoRequest())
            assert (info.max_running, info.engine_restarts) == (64, 0)
            assert await harness.load() == pb.Load(first_token={}, inter_token={}, request={})
            aborted = await harness.control.Abort(pb.AbortRequest(all=True))
            assert aborted.aborted == 0
            assert not starting.done()

    runner.run(scenario())


def test_sluice_health_says_so(runner: asyncio.Runner, gate: Path) -> None:
    async def scenario() -> tuple[int | None, str, str]:
        async with loading(runner, config()) as (harness, _):
            options = ("health", "--server", harness.address, "--timeout", "0.3")
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cli.main", *options),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await process.communicate()
            return process.returncode, out.decode(), err.decode()

    code, out, err = runner.run(scenario())
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.endswith("was not SERVING within 0.3 s; last seen: NOT_SERVING\n")


def test_a_port_that_is_taken_is_told_before_the_load(
    runner: asyncio.Runner, gate: Path, fast: Harness
) -> None:
    async def scenario() -> None:
        taken = ServiceConfig(listen=fast.address, metrics_port=None)
        await refuses(taken, "cannot listen on")
        taken = ServiceConfig(listen="127.0.0.1:0", metrics_port=fast.server.metrics_port)
        await refuses(taken, "metrics cannot listen on")

    async def refuses(taken: ServiceConfig, text: str) -> None:
        server = Server(taken, target=engines.gated)
        with pytest.raises(StartError, match=text):
            await asyncio.wait_for(server.start(), 60)
        await asyncio.wait_for(server.stop(None), 60)

    runner.run(scenario())


def test_a_tokenizer_that_cannot_be_used_is_told_before_the_load(
    runner: asyncio.Runner, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(model: str) -> None:
        raise OSError("there is none")

    monkeypatch.setattr("service.server.load_text", missing)

    async def scenario() -> None:
        server = Server(config(), target=engines.gated)
        with pytest.raises(StartError, match="no tokenizer for 'fake': there is none"):
            await asyncio.wait_for(server.start(), 60)
        await asyncio.wait_for(server.stop(None), 60)

    runner.run(scenario())


def test_an_engine_that_dies_in_its_load_leaves_no_port_open(runner: asyncio.Runner) -> None:
    async def scenario() -> int:
        server = Server(config(), target=engines.dies_at_once)
        with pytest.raises(EngineFailed, match="exit code 3 before it was ready"):
            await server.start()
        await server.stop(None)
        return server.port

    port = runner.run(scenario())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_signal_in_the_load_is_not_kept_waiting_by_the_tokenizer() -> None:
    """Its imports take seconds, and a hub that does not answer a minute."""
    code = """
import asyncio, os, signal, threading
import service.server
from service.config import ServiceConfig
from service.serve import serve

service.server.load_text = lambda model: threading.Event().wait()

async def main():
    asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
    return await serve(ServiceConfig(listen="127.0.0.1:0", metrics_port=None), print)

if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_the_engine_is_spawned_before_any_grpc_object(
    runner: asyncio.Runner, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that starts another by a fork would hand it grpc's threads and locks."""
    server = Server(config(otlp_endpoint="http://127.0.0.1:9"), target=engines.gated)
    made: list[int | None] = []

    def note(*_: Any, **__: Any) -> None:
        made.append(server.client.pid)
        raise StartError("noted")

    monkeypatch.setattr("grpc.aio.server", note)
    monkeypatch.setattr("service.server.Traces", note)

    async def scenario() -> None:
        with pytest.raises(StartError, match="noted"):
            await server.start()
        await server.stop(None)

    runner.run(scenario())
    assert made
    assert all(made)
