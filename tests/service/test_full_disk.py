"""Nowhere to write: logs are lost, answers are not."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.sluice.v1 import sluice_pb2_grpc
from tests.service.harness import fake_tokens, ids_request
from tests.service.test_serve import COMMAND, ROOT, children

REQUESTS = 40
OPTIONS = ("--no-metrics", "--log-prompts", "--log-level", "debug")


def free_port() -> int:
    """Where nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def silent(**streams: Any) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The command, which cannot say where it listens."""
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen([*COMMAND, "--listen", address, *OPTIONS], cwd=ROOT, **streams)
    try:
        with grpc.insecure_channel(address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60
            )
            while next(watch).status != health_pb2.HealthCheckResponse.SERVING:
                pass
        yield process, address
    finally:
        process.kill()
        process.wait()


def serves_and_ends(process: subprocess.Popen[bytes], address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub: Any = sluice_pb2_grpc.InferenceStub(channel)
        for number in range(REQUESTS):
            prompt = [number] * 200  # its line is long
            events = list(stub.Generate(ids_request(prompt, 9), timeout=30))
            assert [i for event in events for i in event.tokens.ids] == fake_tokens(prompt, 9)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_the_disk_is_full_and_the_reader_is_gone() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        with open("/dev/full", "wb") as full, silent(stdout=write, stderr=full) as started:
            serves_and_ends(*started)
    finally:
        os.close(write)


def test_no_file_can_be_written(tmp_path: Path) -> None:
    """Every write to a file fails, wherever it is: a read-only file system, or a quota."""

    def forbid() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    log = tmp_path / "log"
    with log.open("wb") as sink, silent(stdout=sink, stderr=sink, preexec_fn=forbid) as started:
        serves_and_ends(*started)
    assert log.stat().st_size == 0


def test_a_reader_of_the_lines_stalls() -> None:
    """A pipe that is full blocks whoever writes to it."""
    read, write = os.pipe()
    try:
        with silent(stdout=subprocess.DEVNULL, stderr=write) as started:
            os.set_blocking(write, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(write, b"x" * 4096)
            os.set_blocking(write, True)
            serves_and_ends(*started)
    finally:
        os.close(read)
        os.close(write)


def test_standard_streams_are_closed() -> None:
    def close() -> None:
        for number in (0, 1, 2):
            os.close(number)

    with silent(preexec_fn=close) as (process, address):
        for pid in (process.pid, *children(process.pid)):
            for number in (1, 2):  # not a socket or pipe, into which a library would print
                assert os.readlink(f"/proc/{pid}/fd/{number}") == os.devnull
        serves_and_ends(process, address)
