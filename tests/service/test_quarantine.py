"""A request that fails the engine is found and kept away; the others have their whole answers."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextlib import suppress

import grpc
import pytest

from clients.errors import ServerFault
from clients.sdk import AsyncClient, Request, RetryPolicy, Stopping, TokenIds
from engine.messages import Sampling, Submit, Tenant
from service.errors import Quarantined
from service.quarantine import MEMORY_REQUESTS, PROBATION_TOKENS, Quarantine, likeness
from service.stream import RequestStream
from service.supervisor import RestartPolicy
from tests.service import engines
from tests.service.engines import Poison
from tests.service.harness import Harness, config, details, eventually, fake_tokens, ids_request

QUICK = RestartPolicy(first_pause_seconds=0.01, longest_pause_seconds=0.02)
PATIENT = RetryPolicy(attempts=1000, initial_seconds=0.05, maximum_seconds=0.1)


# --- over gRPC


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


# --- alone


class Requests:
    """Requests by the number that is their prompt, each held open until it is told to end."""

    def __init__(self) -> None:
        self.quarantine = Quarantine()
        self.keys = itertools.count(1)

    def come(self, number: int) -> "Coming":
        return Coming(self, number)

    def lose(self, *comings: "Coming") -> int:
        count = self.quarantine.lost([coming.stream for coming in comings])
        for coming in comings:
            coming.task.cancel()
        return count


class Coming:
    """One try of a request."""

    def __init__(self, requests: Requests, number: int) -> None:
        key = next(requests.keys)
        self.submit = Submit(key, [number], Sampling(seed=3))
        self.stream = RequestStream(key, str(key), n=1, interval=1, arrival=0.0, deadline=1e9)
        self.quarantine = requests.quarantine
        self.inside, self.over = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        async with self.quarantine.turn(self.submit, self.stream):
            self.inside.set()
            await self.over.wait()

    async def end(self) -> None:
        self.over.set()
        await self.task


async def settle() -> None:
    """Lets every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


Scenario = Callable[[Requests], Coroutine[None, None, None]]


def play(scenario: Scenario) -> None:
    async def run() -> None:
        await scenario(Requests())

    asyncio.run(run())


async def lost_twice(requests: Requests, numbers: range) -> list[Coming]:
    """The third try of requests that were lost together twice."""
    for _ in range(2):
        tries = [requests.come(number) for number in numbers]
        await settle()
        assert all(coming.inside.is_set() for coming in tries)
        assert requests.lose(*tries) == 0
        await settle()
    tries = [requests.come(number) for number in numbers]
    await settle()
    return tries


def test_suspects_go_one_at_a_time_beside_all_others() -> None:
    async def scenario(requests: Requests) -> None:
        suspects = await lost_twice(requests, range(3))
        assert [coming.inside.is_set() for coming in suspects] == [True, False, False]
        other = requests.come(99)
        await settle()
        assert other.inside.is_set()
        await suspects[0].end()
        await settle()
        assert [coming.inside.is_set() for coming in suspects] == [True, True, False]
        for coming in (*suspects[1:], other):
            await coming.end()

    play(scenario)


def test_a_suspect_that_draws_enough_lets_the_next_one_go_and_is_forgotten() -> None:
    async def scenario(requests: Requests) -> None:
        first, second = await lost_twice(requests, range(2))
        first.stream.received = PROBATION_TOKENS
        await asyncio.wait_for(second.inside.wait(), 10)
        assert not first.task.done()
        again = requests.come(0)
        await settle()
        assert again.inside.is_set()  # beside the one on probation
        for coming in (first, second, again):
            await coming.end()

    play(scenario)


def test_the_suspect_on_probation_is_the_cause_and_the_others_are_not_blamed() -> None:
    async def scenario(requests: Requests) -> None:
        culprit, waits = await lost_twice(requests, range(2))
        beside = requests.come(99)
        await settle()
        assert requests.lose(culprit, beside) == 1
        await settle()
        assert waits.inside.is_set()  # its own turn
        await waits.end()
        with pytest.raises(Quarantined):
            await requests.come(0).run()
        for _ in range(2):  # never lost, as far as anybody counts
            again = requests.come(99)
            await settle()
            assert again.inside.is_set()
            requests.lose(again)

    play(scenario)


def test_one_that_hangs_up_gives_its_turn_away_and_stays_suspect() -> None:
    async def scenario(requests: Requests) -> None:
        first, second, third = await lost_twice(requests, range(3))
        second.task.cancel()  # in the queue
        first.task.cancel()
        with suppress(asyncio.CancelledError):
            await first.task
        await settle()
        assert third.inside.is_set()
        again = requests.come(0)
        await settle()
        assert not again.inside.is_set()
        await third.end()
        await again.end()

    play(scenario)


def test_losses_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(requests: Requests) -> None:
        now = 1000.0
        monkeypatch.setattr("service.quarantine.time.monotonic", lambda: now)
        suspects = await lost_twice(requests, range(2))
        for coming in suspects:
            coming.task.cancel()
        await settle()
        now += 601
        again = [requests.come(number) for number in range(2)]
        await settle()
        assert all(coming.inside.is_set() for coming in again)
        for coming in again:
            await coming.end()

    play(scenario)


def test_memory_is_bounded() -> None:
    async def scenario(requests: Requests) -> None:
        stream = requests.come(0).stream
        await settle()
        for number in range(MEMORY_REQUESTS + 10):
            stream.likeness = number.to_bytes(8)
            requests.quarantine.lost([stream])
        assert len(requests.quarantine._records) == MEMORY_REQUESTS

    play(scenario)


def test_a_resumed_request_is_alike_and_others_are_not() -> None:
    def submit(**changes: object) -> bytes:
        fields = {"prompt": [1, 2], "sampling": Sampling(seed=3)} | changes
        return likeness(Submit(key=1, **fields))  # type: ignore[arg-type]

    assert submit() == submit(resumed=[5, 6], deadline=3.0, sampling=Sampling(seed=4))
    others = [
        submit(prompt=[1, 3]),
        submit(sampling=Sampling(temperature=0.5)),
        submit(tenant=Tenant("somebody")),
        submit(n=2),
    ]
    assert len({submit(), *others}) == 5
