"""A million random operations leave nothing behind."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.budget import Budget, whole
from scheduler.config import SchedulerConfig
from scheduler.errors import QueueFull
from scheduler.plan import StepPlan, StepResult
from scheduler.request import Request
from scheduler.scheduler import Scheduler
from tests.builders import SMALL, check_nothing_is_left, make_scheduler
from tests.scheduler.memory_runner import MemoryRunner
from tests.thorough import THOROUGH

# submit, cancel, stop, and per output: admit, chunk, evict, preempt, end
OPERATIONS = 1_000_000 if THOROUGH else 500_000
FULL_CHECK_EVERY = 1_000
END = 7
LARGER: dict[str, Any] = {
    "blocks": 260,
    "block_size": 8,
    "max_running": 32,
    "max_batch_tokens": 160,
}
STEMS = [tuple(random.Random(i).choices(range(100), k=400)) for i in range(6)]


class Crowd:
    """Random callers of one scheduler, who count what they cause."""

    def __init__(
        self,
        scheduler: Scheduler,
        seed: int,
        execute: Callable[[StepPlan], StepResult] | None = None,
    ) -> None:
        self.scheduler = scheduler
        self._execute = execute or self._draw
        self.rng = random.Random(seed)
        self.operations = 0
        self.key = 0
        self.now = 0.0

    def act(self) -> None:
        """One call of a random caller, now and then."""
        choice = self.rng.random()
        if choice < 0.35:
            self._submit()
        elif choice < 0.40:
            self.operations += 1
            self.scheduler.cancel(self._some_key())
        elif choice < 0.43:
            self.operations += 1
            self.scheduler.stop(self._some_key(), self.rng.randrange(3))

    def step(self) -> None:
        """One step, with random draws."""
        plan = self.scheduler.plan(self.now)
        self.now += 1.0
        self.scheduler.commit(plan, self._execute(plan), self.now)
        ended = self.scheduler.take_finished()
        self.operations += len(plan.chunks) + len(plan.evictions) + len(ended)
        kv = self.scheduler.kv
        assert 0 <= kv.promised <= kv.pool.available
        assert plan.tokens <= self.scheduler.config.max_batch_tokens
        assert plan.chunks or not self.scheduler.num_live, "outputs live, but nothing runs"

    def _some_key(self) -> int:
        return self.key - self.rng.randrange(200)

    def _submit(self) -> None:
        self.operations += 1
        try:
            self.scheduler.submit(self._request())
        except QueueFull:
            assert self.scheduler.num_waiting > self.scheduler.config.max_waiting - 4

    def _request(self) -> Request:
        rng = self.rng
        self.key += 1
        prompt = (*rng.choice(STEMS)[: int(rng.expovariate(1 / 60)) + 1], self.key % 5)
        new = int(rng.expovariate(1 / 120)) + 1
        return Request(
            key=self.key,
            prompt=prompt,
            max_new_tokens=min(new, 500),
            n=rng.choice((1, 1, 1, 2, 4)),
            end_ids=frozenset({END}),
            budget=self._budget(len(prompt)) if rng.random() < 0.7 else None,
            priority=rng.choice((0, 0, 0, 1)),
            salt=rng.choice(("", "a")),
            arrival=self.now,
            deadline=self.now + rng.expovariate(1 / 300) if rng.random() < 0.3 else None,
        )

    def _budget(self, prompt: int) -> Budget:
        evict_prompt = self.rng.random() < 0.3
        pinned = 2 if evict_prompt else prompt
        recent, reclaim = self.rng.randrange(12), self.rng.randrange(1, 40)
        unit = self.rng.choice((1, 1, LARGER["block_size"]))
        reclaim = whole(reclaim, unit)
        floor = whole(pinned, unit) + recent + reclaim + self.rng.randrange(60)
        cap = floor + self.rng.choice((0, 0, 1, 40, 400))
        elastic = None if floor == cap else floor
        return Budget(cap, "window", {}, recent, pinned, reclaim, evict_prompt, elastic, unit)

    def _draw(self, plan: StepPlan) -> StepResult:
        bits = self.rng.getrandbits
        tokens: list[int | None] = [bits(9) for chunk in plan.chunks if chunk.samples]
        if tokens and bits(12) == 0:  # logits that are not finite
            tokens[0] = None
        return StepResult(tokens)


def _run(crowd: Crowd, operations: int, check_every: int) -> None:
    """So many operations, checked now and then; then nobody comes and all end."""
    checked = 0
    while crowd.operations < operations:
        crowd.act()
        crowd.step()
        if crowd.operations - checked >= check_every:
            checked = crowd.operations
            crowd.scheduler.check()
    while crowd.scheduler.num_live:
        crowd.step()
    check_nothing_is_left(crowd.scheduler)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_million_operations_leave_nothing_behind(prefix_cache: bool) -> None:
    scheduler = make_scheduler(**LARGER, prefix_cache=prefix_cache)
    _run(Crowd(scheduler, seed=1), OPERATIONS // 2, FULL_CHECK_EVERY)
    totals = scheduler.totals
    assert min(totals.preemptions, totals.rounds["window"], totals.cached_prompt_tokens) > 500
    assert totals.pressed > 500
    lines = scheduler.waiting._lines.values()
    assert sum(len(line._heap) for line in lines) + len(scheduler._deadlines._heap) < 300


@pytest.mark.slow
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_long_run_reads_what_it_wrote(prefix_cache: bool) -> None:
    rng = random.Random(2)
    draws = [*[1] * 300, END, END, None]
    runner = MemoryRunner(260, 8, prefix_cache, lambda *_: rng.choice(draws))
    settings = {k: v for k, v in LARGER.items() if k != "blocks"} | {"prefix_cache": prefix_cache}
    scheduler = Scheduler(SchedulerConfig(**{**SMALL, **settings}), 260, runner.choose_blocks)
    _run(Crowd(scheduler, 3, runner.execute), OPERATIONS // 50, FULL_CHECK_EVERY // 10)
    assert scheduler.totals.preemptions > 10
