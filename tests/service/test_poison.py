"""Requests that fail a step or the engine: they are found, and all others have their answers."""

import asyncio

import grpc
import pytest

from clients.errors import ServerFault
from clients.sdk import AsyncClient, Request, RetryPolicy, Stopping, TokenIds
from service.supervisor import RestartPolicy
from tests.service import engines
from tests.service.engines import Poison
from tests.service.harness import Harness, config, details, eventually, fake_tokens, ids_request

QUICK = RestartPolicy(first_pause_seconds=0.01, longest_pause_seconds=0.02)
PATIENT = RetryPolicy(attempts=1000, initial_seconds=0.05, maximum_seconds=0.1)


@pytest.mark.parametrize(
    ("poison", "prompt"),
    [(Poison.STEP, [7]), (Poison.STEP, [7] * 12), (Poison.ENGINE, [7])],
    ids=["fails steps of its answer", "fails the step of its prompt", "ends the engine"],
)
def test_the_culprit_is_found_and_all_others_are_answered(
    launch, poison: Poison, prompt: list[int]
) -> None:
    harness = launch(config(0.002, kv_blocks=512), target=engines.poisoned, restarts=QUICK)

    async def scenario() -> None:
        prompts = [[i, 1, 2] for i in range(100, 106)]
        async with AsyncClient(harness.address, retry=PATIENT) as client:
            innocent = [
                asyncio.create_task(
                    client.complete(Request(TokenIds(ids), stopping=Stopping(max_tokens=300)))
                )
                for ids in prompts
            ]
            with pytest.raises(ServerFault, match="refused for 10 minutes"):
                await client.complete(
                    Request(TokenIds([poison, *prompt]), stopping=Stopping(max_tokens=40))
                )
            answers = await asyncio.wait_for(asyncio.gather(*innocent), 60)
        for ids, answer in zip(prompts, answers, strict=True):
            assert list(answer.outputs[0].token_ids) == fake_tokens(ids, 300)
        metrics = harness.server.metrics
        assert metrics.requests_quarantined == 1
        by_step = poison is Poison.STEP
        assert metrics.engine_restarts == (0 if by_step else 3)
        assert harness.server.client._totals.load.steps_failed_total == (3 if by_step else 0)
        await eventually(harness.is_idle)

    harness.run(scenario())


def test_only_the_requests_of_a_failed_step_are_lost(launch) -> None:
    """One runs beside the poison; the other waits, since two may run, and is none the worse."""
    harness = launch(config(0.01, max_running=2), target=engines.poisoned)

    async def scenario() -> None:
        beside = asyncio.create_task(harness.refusal(ids_request([1], 1000)))
        await eventually(lambda: _running(harness, 1))
        poison = asyncio.create_task(harness.refusal(ids_request([Poison.STEP], 1000)))
        await eventually(lambda: _running(harness, 2))
        behind = asyncio.create_task(harness.answer(ids_request([2, 3], 5)))
        for error in await asyncio.gather(beside, poison):
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert "failed in a step" in error.details()
            assert details(error)[1] == 0.1
        assert (await behind).ids[0] == fake_tokens([2, 3], 5)
        assert harness.server.metrics.engine_restarts == 0
        await eventually(harness.is_idle)

    harness.run(scenario())


def test_steps_that_fail_one_after_another_end_the_engine(launch) -> None:
    """Whatever fails them all, it is not one request."""
    harness = launch(config(), target=engines.poisoned, restarts=QUICK)

    async def scenario() -> None:
        errors = [
            await harness.refusal(ids_request([Poison.STEP, i, *[7] * 10], 1)) for i in range(8)
        ]
        texts = [error.details() for error in errors]
        assert all("failed in a step" in text for text in texts[:-1])
        assert "engine died" in texts[-1]

        async def anew() -> bool:
            return harness.server.metrics.engine_restarts == 1

        await eventually(anew)
        assert (await harness.answer(ids_request([1], 3))).ids[0] == fake_tokens([1], 3)

    harness.run(scenario())


async def _running(harness: Harness, count: int) -> bool:
    return (await harness.load()).running == count
