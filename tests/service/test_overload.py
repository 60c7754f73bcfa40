"""Five times what the engine can do: what is taken is served, the rest is told when to come."""

import asyncio

import grpc
import pytest

from tests.service.harness import Harness, config, details, eventually, fake_tokens, ids_request
from tests.service.scale import SCALE

SECONDS = 2.0 * SCALE
TOKENS, STEP, RUNNING, WAITING = 10, 0.01, 4, 8
CAPACITY = RUNNING / (TOKENS * STEP)  # answers a second, at best
PERIOD = 1 / (5 * CAPACITY)


@pytest.mark.timeout(120 + 2 * SECONDS)
def test_five_times_too_much(launch) -> None:
    harness: Harness = launch(config(STEP, max_running=RUNNING, max_waiting=WAITING))
    served, refused, depths = [], [], []

    async def ask(number: int) -> None:
        prompt = [number % 256, 5]
        try:
            answer = await harness.answer(ids_request(prompt, TOKENS), timeout=30)
        except grpc.aio.AioRpcError as error:
            refused.append(error)
        else:
            assert answer.ids[0] == fake_tokens(prompt, TOKENS)
            served.append(number)

    async def look() -> None:
        while True:
            depths.append((await harness.load()).waiting)
            await asyncio.sleep(0.02)

    async def scenario() -> None:
        looking = asyncio.create_task(look())
        loop, asked = asyncio.get_running_loop(), []
        begun = loop.time()
        while loop.time() < begun + SECONDS:
            asked.append(asyncio.create_task(ask(len(asked))))
            await asyncio.sleep(PERIOD)
        await asyncio.gather(*asked)
        looking.cancel()
        assert len(served) + len(refused) == len(asked)
        await eventually(harness.is_idle)

    harness.run(scenario())
    assert served
    assert refused, "the load was no overload"
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all((details(error)[1] or 0) > 0 for error in refused), "no word of when to come back"
    assert max(depths) <= WAITING
