"""The serving benchmark runs end to end; nothing is asserted about its timings."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import serving as benchmark
from benchmarks.front_load import FrontLoad, delays
from benchmarks.load_client import LoadClient, LoadFailed
from benchmarks.serving import Sizes
from clients.local_server import LocalServer, local_servers
from clients.sdk import Client, Request, Stopping, TokenIds, Tokens
from tests.service.harness import fake_tokens

TINY = Sizes(requests=3, new_tokens=5, turns=1, fronts=(FrontLoad(3, 0.005, 2, 0.3),), threads=1)
KEYS = {
    "grpc_over_inprocess",
    "grpc8_over_inprocess",
    "sdk_over_inprocess",
    "engine_cpu_over_inprocess",
    "front_tokens_per_second",
    "front_tokens_per_cpu_second",
    "front_us_per_token",
    "delivery_p50_ms",
    "delivery_p99_ms",
    "offered_tokens_per_second",
    "threads",
    "cores",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with asyncio.Runner() as runner:
        context = local_servers(["fake"], tmp_path_factory.mktemp("logs"), ["--no-metrics"])
        [started] = runner.run(context.__aenter__())
        yield started
        runner.run(context.__aexit__(None, None, None))


def ask(prompt: list[int], new: int) -> bytes:
    stopping = Stopping(max_tokens=new, ignore_eos=True)
    message: bytes = (
        Request(TokenIds(tuple(prompt)), stopping=stopping).to_proto().SerializeToString()
    )
    return message


@pytest.mark.slow
def test_the_last_line_has_the_documented_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stored: Path
) -> None:
    monkeypatch.setattr(benchmark, "QUICK", TINY)
    benchmark.main(quick=True)
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert numbers.keys() == KEYS
    assert all(value >= 0 for value in numbers.values())
    rows = (stored / "serving.jsonl").read_text().splitlines()
    assert all(json.loads(row)["quick"] for row in rows)
    assert len(rows) > 1


def test_the_light_client_receives_what_the_model_draws(server: LocalServer) -> None:
    requests = [([key, 7, 9], 3 + 40 * key) for key in range(9)]
    received: dict[int, list[int]] = {}

    def take(at: float, index: int, tokens: Tokens) -> None:
        received.setdefault(index, []).extend(tokens.ids)

    client = LoadClient(server.target, 4, take)
    client.run([ask(prompt, new) for prompt, new in requests])
    client.close()
    assert received == {i: fake_tokens(*request) for i, request in enumerate(requests)}


def test_the_light_client_says_so_when_a_request_is_refused(server: LocalServer) -> None:
    client = LoadClient(server.target, 1, lambda *_: None)
    with pytest.raises(LoadFailed, match="ended request 0 without Finished"):
        client.run([ask([1], 10**6)])
    client.close()


def test_the_light_client_leaves_when_told_and_the_server_forgets_its_requests(
    server: LocalServer,
) -> None:
    seen: list[int] = []
    client = LoadClient(server.target, 1, lambda at, index, tokens: seen.append(index))
    client.run([ask([1], 30000)], until=lambda: len(seen) > 3)
    client.close()
    with Client(server.target) as sdk:
        while sdk.load().running:  # the test's own limit ends the wait
            time.sleep(0.05)


def test_a_connection_that_ends_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        client = LoadClient(f"127.0.0.1:{listener.getsockname()[1]}", 1, lambda *_: None)
        with pytest.raises((LoadFailed, ConnectionError)):
            client.run([ask([1], 3)])
        client.close()


def test_delays_are_counted_from_the_step_that_a_token_names() -> None:
    steps = [float(step) for step in range(600)]
    arrivals = [
        (300.5, [300 % 251]),  # from the newest step
        (300.75, [299 % 251, 300 % 251]),  # two tokens at once
        (502.0, [0]),  # the second time round
        (505.0, [249]),
    ]
    assert delays(arrivals, steps) == [0.0, 0.5, 0.75, 1.75, 5.0]


def test_a_streams_tokens_reach_the_measurement(tmp_path: Path) -> None:
    load = FrontLoad(streams=2, period=0.002, connections=1, seconds=0.2)
    numbers = asyncio.run(benchmark.measure_front(load))
    assert numbers["tokens_per_second"] > 0
    assert (
        0 < numbers["delivery_p50_ms"] <= numbers["delivery_p99_ms"] <= numbers["delivery_most_ms"]
    )
