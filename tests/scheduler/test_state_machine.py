"""Whatever callers do, in whatever order: the books agree with a small model of the promises."""

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.budget import BudgetLimits, BudgetRequest, resolve
from scheduler.errors import InvalidRequest, QueueFull
from scheduler.plan import Chunk
from scheduler.request import FinishReason, Request
from tests.builders import BLOCK, Bench, Name, name_of, pressable
from tests.scheduler.promises import Model

END = 2  # drawn tokens are 0, 1 and this one
STEMS = ([0] * 30, [1] * 30, [0, 0, 0, 0] + [1] * 26)  # prompts begin alike, so that blocks do


class Service(RuleBasedStateMachine):
    """Callers of one scheduler."""

    @initialize(
        blocks=st.integers(6, 24),
        rows=st.integers(1, 5),
        room=st.integers(0, 12),
        prefix_cache=st.booleans(),
    )
    def start(self, blocks: int, rows: int, room: int, prefix_cache: bool) -> None:
        self.bench = Bench(
            blocks,
            self.draw,
            max_running=rows,
            max_batch_tokens=rows + room,
            max_waiting=12,
            prefix_cache=prefix_cache,
        )
        self.model = Model()
        self.keys = 0
        self.rng = random.Random(0)
        self.drawn: list[tuple[Name, int | None]] = []

    def draw(self, chunk: Chunk, last: int) -> int | None:
        token = self.rng.choices([0, 1, END, None], [200, 200, 6, 1])[0]
        self.drawn.append((name_of(chunk.sequence), token))
        return token

    @rule(seeds=st.lists(st.integers(0, 2**16), min_size=1, max_size=5))
    def submit(self, seeds: list[int]) -> None:
        for seed in seeds:
            self.submit_one(random.Random(seed))

    def submit_one(self, rng: random.Random) -> None:
        self.keys += 1
        prompt = tuple(rng.choice(STEMS)[: rng.randint(1, 26)])
        new, n = rng.randint(1, 40), rng.choice([1, 1, 1, 2, 4])
        cap = rng.choice([None, rng.randint(8, 40)])
        asked = BudgetRequest(
            max_tokens=cap,
            min_tokens=rng.choice([None, rng.randint(4, cap)]) if cap else None,
            recent_tokens=rng.randint(0, 6),
            sink_tokens=rng.randint(0, 3),
            reclaim_tokens=rng.randint(1, 9),
            evict_prompt=rng.random() < 0.3,
        )
        length, limits = len(prompt), BudgetLimits()
        try:
            budget = resolve(
                asked,
                limits,
                prompt_tokens=length,
                max_new_tokens=new,
                unit=rng.choice([1, 1, BLOCK]),
            )
        except InvalidRequest:
            return
        request = Request(
            key=self.keys,
            prompt=prompt,
            max_new_tokens=new,
            n=n,
            end_ids=frozenset({END}),
            budget=budget,
            priority=rng.choice([0, 0, 0, 1, -1]),
            salt=rng.choice(["", "", "", "a"]),
            deadline=rng.choice([None, None, self.bench.now + rng.randint(0, 80)]),
            resumed=tuple(rng.choices([0, 1], k=rng.choice([0, 0, 1, rng.randint(0, new)])))
            if n == 1
            else (),
        )
        needed = min(length + new, budget.floor if budget else length + new)
        fits = (
            -(-needed // self.bench.scheduler.config.block_size) <= self.bench.runner.total_blocks
        )
        waiting = len(self.model.live) - len(self.bench.scheduler.running)
        try:
            self.bench.submit(request)
        except InvalidRequest:
            assert not fits
        except QueueFull:
            assert waiting + n > 12
        else:
            assert fits
            assert waiting + n <= 12
            self.model.submit(request)

    def step(self, rng: random.Random, cancels: int | None = None) -> None:
        """A step, with draws from `rng`; `cancels` is a request that ends while it runs."""
        self.rng, self.drawn = rng, []
        self.model.expire(self.bench.now)
        live = bool(self.model.live)
        preemptions = self.bench.scheduler.totals.preemptions

        def meanwhile() -> None:
            self.model.book(self.bench.plans[-1], self.bench.runner.dropped)
            self.bench.runner.dropped.clear()
            if self.bench.scheduler.totals.preemptions == preemptions:
                self.nobody_waits_in_vain()
            if cancels is not None:
                self.cancel_one(cancels)

        plan = self.bench.step(meanwhile)
        assert plan.empty == (not live), "outputs live, but nothing runs"
        for name, token in self.drawn:
            self.model.draw(name, token)

    def nobody_waits_in_vain(self) -> None:
        """The head of the queue waits only for what pressing could not free either.

        Not told after a preemption: the token of who was preempted is not given to another.
        """
        scheduler, plan = self.bench.scheduler, self.bench.plans[-1]
        head = scheduler.waiting.head()
        full = plan.tokens == scheduler.config.max_batch_tokens
        if head is not None and not full and len(scheduler.running) < scheduler.config.max_running:
            watermark = sum(s.request.budget is None for s in scheduler.running)
            lacking = scheduler.kv.lacking_to_admit(head, watermark)
            assert lacking > pressable(scheduler, plan)

    @rule(seed=st.integers(0, 2**16), count=st.integers(1, 30))
    def steps(self, seed: int, count: int) -> None:
        rng = random.Random(seed)
        for _ in range(count):
            self.step(rng)

    @rule(seed=st.integers(0, 2**16), age=st.integers(0, 8))
    def cancel_during_a_step(self, seed: int, age: int) -> None:
        self.step(random.Random(seed), cancels=self.keys - age)

    @rule(age=st.integers(0, 8))
    def cancel(self, age: int) -> None:
        self.cancel_one(self.keys - age)

    def cancel_one(self, key: int) -> None:
        known = self.bench.scheduler.cancel(key)
        self.bench.collect()
        assert known == self.model.end(key, FinishReason.CANCELLED)

    @rule(age=st.integers(0, 8), output=st.integers(0, 3))
    def stop(self, age: int, output: int) -> None:
        key = self.keys - age
        known = self.bench.scheduler.stop(key, output)
        self.bench.collect()
        assert known == self.model.end(key, FinishReason.STOP, output)

    @rule(seconds=st.integers(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.bench.now += seconds

    @precondition(lambda self: len(self.model.live) > 3)
    @rule(seed=st.integers(0, 2**16))
    def nobody_starves(self, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(self.model.work()):
            if not self.model.live:
                return
            self.step(rng)
        raise AssertionError("some output never ends")

    @invariant()
    def agrees(self) -> None:
        assert self.bench.reasons == self.model.reasons
        assert self.bench.tokens == self.model.tokens
        running = self.bench.scheduler.running
        needed = {s: s.request.needed_tokens for s in running if s.request.budget}
        blocks_for = self.bench.scheduler.kv.blocks_for
        owed = sum(max(blocks_for(p) - len(s.blocks), 0) for s, p in needed.items())
        held = len({block for s in running for block in s.blocks})
        assert held + owed <= self.bench.runner.total_blocks, "more is promised than there is"

    @invariant()
    def budget_classes_add_up(self) -> None:
        scheduler, live = self.bench.scheduler, self.model.live.values()
        pool = self.bench.runner.total_blocks * BLOCK
        classes = {counts.bound: counts for counts in scheduler.kv.classes}
        assert {bound: counts.live for bound, counts in classes.items()} == Counter(
            0
            if output.request.budget is None
            else next(2**i for i in range(64) if 2**i >= min(output.request.budget.cap, pool))
            for output in live
        )
        running = scheduler.running
        assert sum(counts.running for counts in classes.values()) == len(running)
        assert sum(counts.waiting for counts in classes.values()) == scheduler.num_waiting
        assert sum(counts.tokens for counts in classes.values()) == sum(
            sequence.kv_tokens for sequence in running
        )
        pooled = scheduler.kv.pool
        in_tables = sum(counts.blocks for counts in classes.values())
        assert in_tables == sum(len(sequence.blocks) for sequence in running)
        assert in_tables == pooled.held + pooled.shared

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.nobody_starves(1)
            self.bench.drain()


TestService = pytest.mark.timeout(600)(Service.TestCase)  # long if it must shrink
TestService.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
