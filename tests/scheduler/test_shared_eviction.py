"""Shared prompts among evicting outputs: what is cached stays right whatever happens around it.

Requests of few prompts under every kind of budget, in a pool too small for them, some cancelled or
stopped half-way. The runner stores and reads back (tests/scheduler/memory_runner.py).
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.budget import BudgetLimits, BudgetRequest, resolve
from scheduler.errors import InvalidRequest
from scheduler.prefix import block_keys
from scheduler.request import FinishReason, Request, Sequence
from tests.builders import BLOCK, Bench, tokens_alone
from tests.thorough import THOROUGH, some

STEMS = tuple(tuple(range(100 * i, 100 * i + 24)) for i in range(1, 4))
SALTS = ("", "tenant")
BLOCKS = 26


class Crowd:
    """Random requests and what became of them."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.prefix_cache = self._rng.random() < 0.8
        self.bench = Bench(BLOCKS, max_running=6, prefix_cache=self.prefix_cache)
        self.requests: list[Request] = []

    def live(self) -> None:
        """Some requests, each with some steps after it; then steps until all have ended."""
        rng = self._rng
        for key in range(1, 11):
            self._submit(key)
            for _ in range(rng.choice((0, 1, 5, 20))):
                self._step()
            self._end_one()
        while self.bench.scheduler.num_live:
            self._step()

    def _submit(self, key: int) -> None:
        rng = self._rng
        stem = rng.choice(STEMS)
        prompt = (*stem[: rng.choice((8, 13, 24))], *range(rng.choice((0, 0, 3))))
        new = rng.randint(1, 50)
        cap = rng.choice((None, len(prompt) + new, rng.randint(10, 50), rng.randint(10, 50)))
        asked = BudgetRequest(
            max_tokens=cap,
            min_tokens=rng.randint(10, cap) if cap and cap > 10 and rng.random() < 0.5 else None,
            recent_tokens=rng.randint(0, 4),
            sink_tokens=1,
            reclaim_tokens=rng.randint(1, 6),
            evict_prompt=rng.random() < 0.3,
        )
        unit = rng.choice((1, BLOCK))
        try:
            budget = resolve(
                asked, BudgetLimits(), prompt_tokens=len(prompt), max_new_tokens=new, unit=unit
            )
        except InvalidRequest:
            return
        request = Request(
            key,
            prompt,
            new,
            n=rng.choice((1, 1, 2, 3)),
            budget=budget,
            priority=rng.choice((0, 0, 1)),
            salt=rng.choice(SALTS),
        )
        self.bench.submit(request)
        self.requests.append(request)

    def _end_one(self) -> None:
        rng = self._rng
        if self.requests and rng.random() < 0.3:
            request = rng.choice(self.requests)
            if rng.random() < 0.5:
                self.bench.cancel(request)
            else:
                self.bench.stop(request, rng.randrange(request.n))

    def _step(self) -> None:
        self.bench.step()
        self.check_cache()

    def check_cache(self) -> int:
        """Asserts that every cached block holds what its key says; how many there are."""
        if not self.prefix_cache:
            return 0
        runner, found = self.bench.runner, 0
        for salt in SALTS:
            for prompt in {request.prompt for request in self.requests}:
                owner = Sequence(Request(0, prompt, 1, salt=salt), 0, list(prompt))
                entries = runner._entries(owner, 0, len(prompt))
                for i, key in enumerate(block_keys(prompt, f"shared\0\0{salt}", BLOCK)):
                    block = self.bench.scheduler.kv.pool.find(key)
                    if block is not None:
                        slots = runner.slots[block * BLOCK : (block + 1) * BLOCK]
                        assert slots == entries[i * BLOCK : (i + 1) * BLOCK], "the cache is stale"
                        found += 1
        return found


@settings(deadline=None, max_examples=120 if THOROUGH else 40)
@given(st.integers(0, 2**32))
def test_cached_prompts_and_outputs_survive_any_mixture(seed: int) -> None:
    crowd = Crowd(seed)
    crowd.live()
    bench = crowd.bench
    bench.drain()
    for request in crowd.requests:
        alone = tokens_alone(request)
        for output in range(request.n):
            drawn, reason = bench.tokens[request.key, output], bench.reasons[request.key, output]
            assert drawn == alone[: len(drawn)]
            assert reason != FinishReason.LENGTH or drawn == alone
            usage = bench.usage[request.key, output]
            assert request.budget is None or usage.preemptions == 0


@pytest.mark.parametrize("start", some([0, 40], 2))
def test_the_mixture_is_one(start: int) -> None:
    """Everything that the test above is about happens, and often."""
    seen: Counter[str] = Counter()
    for seed in range(start, start + 40):
        crowd = Crowd(seed)
        crowd.live()
        usages, totals = crowd.bench.usage.values(), crowd.bench.scheduler.totals
        seen["cached blocks at the end"] += crowd.check_cache()
        seen["preemptions"] += totals.preemptions
        seen["pressed"] += totals.pressed
        seen["hits"] += sum(usage.cached_prompt_tokens > 0 for usage in usages)
        seen["cut short"] += sum(r != FinishReason.LENGTH for r in crowd.bench.reasons.values())
        seen["whole blocks"] += len(crowd.bench.runner.dropped)
        seen["moves"] += sum(len(plan.evictions) for plan in crowd.bench.plans)
        for request in crowd.requests:
            seen["prompts that may go"] += bool(request.budget and request.budget.evict_prompt)
            seen["several outputs"] += request.n > 1
    assert min(seen.values()) > 30, seen
