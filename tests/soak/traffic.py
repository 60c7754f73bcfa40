"""What a service is asked in a soak: everything that callers do, at random, each answer checked."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc

from protos.sluice.v1 import sluice_pb2 as pb
from tests.service.harness import Caller, fake_tokens, ids_request
from tests.service.test_abuse import greeting

PROMPT_TOKENS, MOST_TOKENS = 60, 200
PATIENCE = 60.0  # seconds for one answer
BUDGET, FLOOR = 112, 96  # KV tokens


class Traffic(Caller):
    """Asks one server, and keeps account."""

    def __init__(self, address: str, channel: grpc.aio.Channel, seed: int) -> None:
        super().__init__(channel)
        self._host, _, self._port = address.rpartition(":")
        self._rng = random.Random(seed)
        self.asked: Counter[str] = Counter()
        self._kinds: list[Callable[[], Awaitable[None]]] = [
            *(self.whole, self.whole, self.budgeted, self.several, self.stopped),
            *(self.hang_up, self.overdue, self.refused, self.stranger, self.aborted),
        ]

    async def one(self) -> None:
        """One call of some kind. AssertionError where its answer is wrong."""
        kind = self._rng.choice(self._kinds)
        self.asked[kind.__name__] += 1
        await kind()

    # --- the kinds

    async def whole(self) -> None:
        prompt, count = self._prompt(), self._count()
        answer = await self.answer(ids_request(prompt, count), timeout=PATIENCE)
        assert answer.ids == {0: fake_tokens(prompt, count)}
        assert answer.finished[0].usage.completion_tokens == count

    async def budgeted(self) -> None:
        prompt, count = self._prompt(), self._count()
        policy = self._rng.choice(["r_kv", "window", "paged_eviction"])
        budget = pb.KvBudget(max_tokens=BUDGET, policy=policy, recent_tokens=16)
        if self._rng.random() < 0.3:
            budget.min_tokens = FLOOR
        answer = await self.answer(ids_request(prompt, count, kv_budget=budget), timeout=PATIENCE)
        assert answer.ids == {0: fake_tokens(prompt, count)}
        assert answer.finished[0].usage.kv_tokens_peak <= BUDGET

    async def several(self) -> None:
        prompt, count = self._prompt(), self._count()
        answer = await self.answer(
            ids_request(prompt, count, sampling=pb.Sampling(n=3)), timeout=PATIENCE
        )
        assert answer.ids == dict.fromkeys(range(3), fake_tokens(prompt, count))

    async def stopped(self) -> None:
        prompt, count = self._prompt(), self._count()
        text = bytes(fake_tokens(prompt, count)).decode(errors="replace")
        stop = text[len(text) // 2 : len(text) // 2 + 2]
        request = ids_request(prompt, count)
        request.stopping.stop.append(stop)
        answer = await self.answer(request, timeout=PATIENCE)
        assert answer.text[0] == text[: text.index(stop)]
        assert answer.finished[0].stop == stop

    async def hang_up(self) -> None:
        call = self.inference.Generate(ids_request(self._prompt(), 20_000), timeout=PATIENCE)
        for _ in range(self._rng.randrange(4)):
            await call.read()
        await asyncio.sleep(self._rng.random() * 0.05)
        call.cancel()

    async def overdue(self) -> None:
        await self._ends(ids_request(self._prompt(), 20_000), {"DEADLINE_EXCEEDED"}, 0.05)

    async def refused(self) -> None:
        wrong = pb.Sampling(temperature=-1.0)
        await self._ends(ids_request([1], 1, sampling=wrong), {"INVALID_ARGUMENT"})

    async def stranger(self) -> None:
        _, writer = await asyncio.open_connection(self._host, int(self._port))
        with suppress(ConnectionError):
            writer.write(greeting(self._rng.randrange(10), self._rng))
            await writer.drain()
        writer.transport.abort()

    async def aborted(self) -> None:
        name = f"{self._rng.getrandbits(64):x}"
        request = ids_request(self._prompt(), 20_000, request_id=name)
        ending = asyncio.create_task(self._ends(request, {"ABORTED"}))
        while not (await self.control.Abort(pb.AbortRequest(request_id=name))).aborted:
            await asyncio.sleep(0.01)
        await ending

    # --- their parts

    def _prompt(self) -> list[int]:
        return [self._rng.randrange(251) for _ in range(self._rng.randint(1, PROMPT_TOKENS))]

    def _count(self) -> int:
        return self._rng.randint(1, MOST_TOKENS)

    async def _ends(
        self, request: pb.GenerateRequest, codes: set[str], timeout: float = PATIENCE
    ) -> None:
        call = self.inference.Generate(request, timeout=timeout)
        with suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass
        code = await call.code()
        assert code.name in codes, (code, await call.details())
