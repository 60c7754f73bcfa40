"""An engine that hangs is ended; one that is idle, or only slow, is not."""

import asyncio
import os
import signal

import grpc
import pytest

from protos.sluice.v1 import sluice_pb2 as pb
from service.supervisor import RestartPolicy
from tests.service.harness import Harness, config, eventually, fake_tokens, ids_request

PROMPT = [1, 2, 3]
QUICK = RestartPolicy(first_pause_seconds=0.01, longest_pause_seconds=0.02)


async def restarts(harness: Harness) -> int:
    return (await harness.control.GetServerInfo(pb.GetServerInfoRequest())).engine_restarts


def test_a_stopped_engine_is_killed_and_a_new_one_serves(
    launch, caplog: pytest.LogCaptureFixture
) -> None:
    harness = launch(config(0.01, engine_silence_seconds=0.4), restarts=QUICK)

    async def scenario() -> None:
        prompts = [[i, 1] for i in range(4)]
        waiting = [
            asyncio.create_task(harness.refusal(ids_request(prompt, 5000))) for prompt in prompts
        ]

        async def generating() -> bool:
            return (await harness.load()).generation_tokens_total > 50

        await eventually(generating)
        os.kill(harness.server.client.pid, signal.SIGSTOP)
        for error in await asyncio.wait_for(asyncio.gather(*waiting), 30):
            assert error.code() == grpc.StatusCode.UNAVAILABLE

        async def serving() -> bool:
            return await restarts(harness) == 1 and harness.server.client.up

        await eventually(serving)
        answer = await harness.answer(ids_request(PROMPT, 5))
        assert answer.ids[0] == fake_tokens(PROMPT, 5)

    harness.run(scenario())
    assert "said nothing for" in caplog.text


def test_an_idle_engine_may_be_silent(launch) -> None:
    harness = launch(config(engine_silence_seconds=0.1), restarts=QUICK)

    async def scenario() -> None:
        for _ in range(3):
            answer = await harness.answer(ids_request(PROMPT, 5))
            assert answer.ids[0] == fake_tokens(PROMPT, 5)
            await asyncio.sleep(0.3)
        assert await restarts(harness) == 0

    harness.run(scenario())


def test_a_slow_engine_is_no_hung_one(launch) -> None:
    harness = launch(config(0.05, engine_silence_seconds=2.0), restarts=QUICK)

    async def scenario() -> None:
        answer = await harness.answer(ids_request(PROMPT, 60))
        assert answer.ids[0] == fake_tokens(PROMPT, 60)
        assert await restarts(harness) == 0

    harness.run(scenario())


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_an_engine_needs_time_for_its_steps(seconds: float) -> None:
    with pytest.raises(ValueError, match="want more than 0"):
        config(engine_silence_seconds=seconds)
