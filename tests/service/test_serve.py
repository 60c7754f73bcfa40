"""The real command in a process of its own: its line, its signals, what it loads, how it dies."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.serve import configure
from protos.sluice.v1 import sluice_pb2 as pb
from protos.sluice.v1 import sluice_pb2_grpc
from service.config import EngineConfig, ServiceConfig
from tests.service.harness import fake_tokens, ids_request

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "import typer; from cli.serve import serve; typer.run(serve)")
LINE = re.compile(
    r"sluice: serving (\S+) on (127\.0\.0\.1:\d+), metrics on http://127\.0\.0\.1:\d+/metrics\n"
)


@contextlib.contextmanager
def served(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running command and its address."""
    command = [*COMMAND, "--listen", "127.0.0.1:0", "--metrics-port", "0", *options]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        match = LINE.fullmatch(process.stdout.readline())
        assert match is not None
        yield process, match[2]
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def begun(address: str, max_tokens: int) -> Iterator[Iterator[pb.GenerateEvent]]:
    """A stream that has its first tokens."""
    with grpc.insecure_channel(address) as channel:
        stub = sluice_pb2_grpc.InferenceStub(channel)
        stream = stub.Generate(ids_request([1, 2], max_tokens))
        while not next(stream).HasField("tokens"):
            pass
        yield stream


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether the process ends in time; a zombie has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def refused(address: str) -> bool:
    """Whether new calls come to be refused as UNAVAILABLE.

    One that crosses the server's GOAWAY on an open connection gets CANCELLED from gRPC itself.
    """
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with grpc.insecure_channel(address) as channel:
            try:
                sluice_pb2_grpc.ControlStub(channel).GetLoad(pb.GetLoadRequest(), timeout=10)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.CANCELLED:
                    return error.code() == grpc.StatusCode.UNAVAILABLE
    return False


def test_sigterm_lets_streams_finish_and_exits_with_0() -> None:
    with served("--model", "fake", "--fake-step-seconds", "0.01") as (process, address):
        with begun(address, 150) as stream:
            process.send_signal(signal.SIGTERM)
            assert refused(address)
            events = list(stream)
        assert events[-1].finished.usage.completion_tokens == 150
        ids = [token for event in events for token in event.tokens.ids]
        assert fake_tokens([1, 2], 150)[-len(ids) :] == ids
        assert process.wait(20) == 0


def test_health_says_it_first_and_live_streams_go_on() -> None:
    """A load balancer that watches health learns of the end before any stream does."""
    status = health_pb2.HealthCheckResponse
    with (
        served("--model", "fake", "--fake-step-seconds", "0.02") as (process, address),
        begun(address, 100) as stream,
        grpc.insecure_channel(address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == status.SERVING
        process.send_signal(signal.SIGTERM)
        assert next(watch).status == status.NOT_SERVING
        more = next(stream)
        assert more.HasField("tokens")
        assert list(stream)[-1].finished.usage.completion_tokens == 100
        assert process.wait(20) == 0


def test_a_drain_ends_and_a_second_signal_ends_it_at_once() -> None:
    options = ("--fake-step-seconds", "0.05", "--drain-seconds", "300")
    with served(*options) as (process, address), begun(address, 20_000) as stream:
        engines = children(process.pid)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert process.wait(20) == 0
        assert all(gone(pid) for pid in engines)


def test_sighup_reads_changed_files_and_ends_nothing(tmp_path: Path) -> None:
    """To both processes, as a terminal that is closed sends it."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[alice]\ntokens = ["0123456789abcdef"]\n')
    with served("--tokens-file", str(tokens)) as (process, address):
        engines = children(process.pid)
        tokens.write_text("[alice\n")
        for pid in (*engines, process.pid):
            os.kill(pid, signal.SIGHUP)
        assert process.stderr is not None
        assert any("tokens file not reloaded" in line for line in process.stderr)
        with grpc.insecure_channel(address) as channel:
            stub = sluice_pb2_grpc.InferenceStub(channel)
            metadata = (("authorization", "Bearer 0123456789abcdef"),)
            events = list(stub.Generate(ids_request([1, 2], 3), metadata=metadata))
        assert events[-1].finished.usage.completion_tokens == 3
        assert children(process.pid) == engines


def test_when_the_front_is_killed_the_engine_ends() -> None:
    with served() as (process, _):
        engines = children(process.pid)
        assert engines
        process.kill()
        assert all(gone(pid) for pid in engines)


def test_an_engine_that_cannot_start_is_exit_code_1() -> None:
    command = [*COMMAND, "--listen", "127.0.0.1:0", "--max-batch-tokens", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "max_batch_tokens is 1" in result.stderr, "the engine says why"
    assert "the engine ended with exit code 1 before it was ready" in result.stderr


def test_the_front_of_the_fake_model_loads_neither_torch_nor_transformers() -> None:
    code = """
import asyncio, sys
import grpc
from cli.serve import configure, serve
from protos.sluice.v1 import sluice_pb2 as pb, sluice_pb2_grpc
from service.server import Server

async def main():
    options = {"listen": "127.0.0.1:0", "metrics_port": 0, "metrics": True}
    server = Server(configure(options))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request = pb.GenerateRequest(text="x", stopping=pb.Stopping(max_tokens=3))
        events = [e async for e in sluice_pb2_grpc.InferenceStub(channel).Generate(request)]
    await server.stop(0)
    heavy = {"torch", "transformers", "numba", "opentelemetry"}
    print(len(events) > 1, sorted(heavy & sys.modules.keys()))

if __name__ == "__main__":
    asyncio.run(main())
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "True []\n"


def test_options_that_are_absent_keep_the_defaults() -> None:
    assert configure({}) == configure({"metrics": True}) == ServiceConfig()


def test_every_option_reaches_the_configuration() -> None:
    config = configure(
        {
            "metrics": False,
            "listen": "0.0.0.0:1",
            "drain_seconds": 1.5,
            "model": "/models/some",
            "name": "mine",
            "kv_blocks": 7,
            "default_kv_budget": 64,
            "max_kv_budget": 128,
            "default_policy": "window",
            "max_running": 3,
            "prefix_cache": False,
        }
    )
    assert (config.listen, config.host, config.metrics_port) == ("0.0.0.0:1", "0.0.0.0", None)
    engine: EngineConfig = config.engine
    assert (engine.model, engine.served_name, engine.kv_blocks) == ("/models/some", "mine", 7)
    budgets = engine.budgets
    assert (budgets.default_tokens, budgets.max_tokens) == (64, 128)
    assert budgets.default_policy == "window"
    assert (engine.scheduler.max_running, engine.scheduler.prefix_cache) == (3, False)
    assert config.drain_seconds == 1.5
