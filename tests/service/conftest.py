"""One event loop and two services for the whole suite: starting an engine takes a second."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.config import ServiceConfig
from tests.service.harness import Harness, config, start, stop


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """The one loop that touches grpc."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def fast(runner: asyncio.Runner) -> Iterator[Harness]:
    """A service whose steps take no time."""
    harness = runner.run(
        start(runner, config(kv_blocks=512, max_sequence_tokens=2048, metrics_port=0))
    )
    yield harness
    runner.run(stop(harness))


@pytest.fixture(scope="session")
def slow(runner: asyncio.Runner) -> Iterator[Harness]:
    """A service with 20 ms steps, room for four outputs and a queue of eight."""
    service = config(
        0.02,
        metrics_port=0,
        kv_blocks=512,
        max_running=4,
        max_waiting=8,
        heartbeat_seconds=0.2,
        prefix_cache=False,
    )
    harness = runner.run(start(runner, service))
    yield harness
    runner.run(stop(harness))


@pytest.fixture
def launch(runner: asyncio.Runner) -> Iterator[Callable[..., Harness]]:
    """Starts a service for one test alone."""
    started = []

    def launch(service: ServiceConfig, **server: Any) -> Harness:
        harness = runner.run(start(runner, service, **server))
        started.append(harness)
        return harness

    yield launch
    for harness in started:
        runner.run(stop(harness))
