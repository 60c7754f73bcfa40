"""The engine dies: everybody is told at once, a new one comes, and not for ever."""

import asyncio
import dataclasses
import os
import signal
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.sluice.v1 import sluice_pb2 as pb
from service.engine_client import EngineFailed
from service.engine_link import EngineTarget
from service.server import Server
from service.supervisor import EngineCrashLoop, RestartPolicy
from tests.service import engines
from tests.service.harness import Harness, config, details, eventually, fake_tokens, ids_request

PROMPT = [1, 2, 3]
QUICK = RestartPolicy(first_pause_seconds=0.01, longest_pause_seconds=0.02)


async def health(harness: Harness, service: str = "") -> str:
    stub = health_pb2_grpc.HealthStub(harness.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def test_every_stream_is_told_and_a_new_engine_serves(
    launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"  # shut while there shall be no engine
    gate.touch()
    monkeypatch.setenv(engines.GATE, str(gate))
    harness = launch(config(0.02), target=engines.gated, restarts=QUICK)

    async def scenario() -> None:
        prompts = [[i, 1] for i in range(64)]
        waiting = [
            asyncio.create_task(harness.refusal(ids_request(prompt, 5000))) for prompt in prompts
        ]

        async def generating() -> bool:
            load = await harness.load()
            return load.running == len(prompts) and load.generation_tokens_total > 200

        await eventually(generating)
        gate.unlink()
        os.kill(harness.server.client.pid, signal.SIGKILL)
        for error in await asyncio.wait_for(asyncio.gather(*waiting), 30):  # takes 30 ms
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert "engine died" in error.details()
            assert details(error)[1] is not None

        async def not_serving() -> bool:  # said once the process is reaped; streams hear first
            names = ("", "sluice.v1.Inference")
            return {await health(harness, name) for name in names} == {"NOT_SERVING"}

        await eventually(not_serving)
        assert await health(harness, "sluice.v1.Control") == "SERVING"
        assert (await harness.refusal(ids_request(PROMPT, 5))).code() == (
            grpc.StatusCode.UNAVAILABLE
        )
        assert (await harness.load()).running == 0

        gate.touch()

        async def serving() -> bool:
            return await health(harness) == "SERVING"

        await eventually(serving)
        assert await harness.is_idle(), "all blocks of the new engine are free"
        answer = await harness.answer(ids_request(PROMPT, 5))
        assert answer.ids[0] == fake_tokens(PROMPT, 5)
        assert (await harness.load()).generation_tokens_total > 205, "totals survive"
        info = await harness.control.GetServerInfo(pb.GetServerInfoRequest())
        assert info.engine_restarts == 1

    harness.run(scenario())


def test_an_engine_that_cannot_start_is_an_error(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        server = Server(config(), target=engines.dies_at_once)
        with pytest.raises(EngineFailed, match="exit code 3"):
            await server.start()
        await server.stop(None)

    runner.run(scenario())


def test_an_engine_that_died_while_the_loop_was_busy_has_started(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        client = Server(config(), target=engines.dies_after_ready).client
        start = asyncio.create_task(client.start())
        while client.pid is None:
            await asyncio.sleep(0)
        while Path(f"/proc/{client.pid}").exists():
            time.sleep(0.01)  # blocks the loop: Ready and the end arrive together
        assert (await start).name
        assert await client.ended() == 4

    runner.run(scenario())


@pytest.mark.parametrize(
    ("target", "deaths"), [(engines.dies_after_ready, 5), (engines.talks_nonsense, 2)]
)
def test_engines_that_keep_dying_end_the_service(
    runner: asyncio.Runner, target: EngineTarget, deaths: int
) -> None:
    async def scenario() -> None:
        policy = dataclasses.replace(QUICK, deaths=deaths)
        server = Server(config(), target=target, restarts=policy)
        await server.start()
        with pytest.raises(EngineCrashLoop, match=rf"died {deaths} times within 60 s"):
            await asyncio.wait_for(server.wait_failed(), 60)
        await server.stop(None)

    runner.run(scenario())


def test_an_engine_that_lingers_is_killed(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.server.ENGINE_STOP_SECONDS", 0.1)

    async def scenario() -> None:
        server = Server(config(), target=engines.lingers)
        await server.start()
        await asyncio.wait_for(server.stop(None), 20)
        assert await server.client.ended() == -signal.SIGKILL

    runner.run(scenario())


def test_five_deaths_in_a_minute_are_too_many_by_default() -> None:
    assert (RestartPolicy().deaths, RestartPolicy().within_seconds) == (5, 60)


def test_pauses_between_restarts_grow_to_a_limit() -> None:
    policy = RestartPolicy(first_pause_seconds=0.2, longest_pause_seconds=1.0)
    assert [policy.pause(deaths) for deaths in (1, 2, 3, 4, 30)] == [0.2, 0.4, 0.8, 1.0, 1.0]


def test_an_engine_that_still_loads_is_not_waited_for(
    runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hears nothing before it is ready, and holds no request that could be finished."""
    monkeypatch.setenv(engines.GATE, str(tmp_path / "never"))

    async def scenario() -> None:
        server = Server(config(), target=engines.gated)
        starting = asyncio.create_task(server.start())
        while server.client.pid is None:
            await asyncio.sleep(0.01)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await asyncio.wait_for(server.client.stop(1000), 60)

    runner.run(scenario())
