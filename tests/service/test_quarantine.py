"""Who is suspect, who may go to the engine, and who is refused."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import SimpleNamespace

import pytest

from engine.messages import Sampling, Submit, Tenant
from service.errors import Aborted, Quarantined
from service.quarantine import MEMORY_REQUESTS, PROBATION_TOKENS, Quarantine, likeness
from service.stream import RequestStream


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


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.quarantine.LOOK_SECONDS", 0)


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


def test_one_that_is_ended_from_outside_does_not_wait_for_its_turn() -> None:
    async def scenario(requests: Requests) -> None:
        first, second = await lost_twice(requests, range(2))
        second.stream.fail(Aborted())
        with pytest.raises(Aborted):
            await second.task
        await first.end()

    play(scenario)


def test_suspects_that_are_alike_are_acquitted_together() -> None:
    async def scenario(requests: Requests) -> None:
        [first] = await lost_twice(requests, range(1))
        alike = [requests.come(0) for _ in range(2)]
        await settle()
        assert not any(coming.inside.is_set() for coming in alike)
        await first.end()
        await settle()
        assert all(coming.inside.is_set() for coming in alike)
        for coming in alike:
            await coming.end()

    play(scenario)


def test_losses_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(requests: Requests) -> None:
        now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: now)
        monkeypatch.setattr("service.quarantine.time", clock)
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
