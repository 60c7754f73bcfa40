"""Whatever callers do, in whatever order: the books agree with a small model of the promises."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.budget import BudgetLimits, BudgetRequest, resolve
from scheduler.errors import InvalidRequest, QueueFull
from scheduler.plan import Chunk, StepPlan
from scheduler.request import FinishReason, Request, Sequence
from tests.builders import BLOCK, Bench, Name, name_of, pressable

END = 2  # drawn tokens are 0, 1 and this one
STEMS = ([0] * 30, [1] * 30, [0, 0, 0, 0] + [1] * 26)  # prompts begin alike, so that blocks do


@dataclass
class Output:
    """What the model knows of one live output."""

    request: Request
    tokens: list[int] = field(default_factory=list)  # drawn
    computed: int = 0
    held: int = 0


class Model:
    """What must come of requests, told without blocks, queues or promises."""

    def __init__(self) -> None:
        self.live: dict[Name, Output] = {}
        self.tokens: dict[Name, list[int]] = {}
        self.reasons: dict[Name, FinishReason] = {}

    def submit(self, request: Request) -> None:
        for output in range(request.n):
            self.live[request.key, output] = Output(request, list(request.resumed))
            self.tokens[request.key, output] = self.live[request.key, output].tokens
        if len(request.resumed) == request.max_new_tokens:
            self.end(request.key, FinishReason.LENGTH)

    def end(self, key: int, reason: FinishReason, output: int | None = None) -> bool:
        ends = [name for name in self.live if name[0] == key and output in (None, name[1])]
        for name in ends:
            del self.live[name]
            self.reasons[name] = reason
        return bool(ends)

    def draw(self, name: Name, token: int | None) -> None:
        output = self.live.get(name)
        if output is None:
            return
        if token is None:
            self.end(name[0], FinishReason.ERROR)
            return
        output.tokens.append(token)
        if token in output.request.end_ids:
            self.end(name[0], FinishReason.STOP, name[1])
        elif len(output.tokens) == output.request.max_new_tokens:
            self.end(name[0], FinishReason.LENGTH, name[1])

    def expire(self, now: float) -> None:
        for request in [output.request for output in self.live.values()]:
            if request.deadline is not None and request.deadline <= now:
                self.end(request.key, FinishReason.DEADLINE)

    def book(self, plan: StepPlan, dropped: list[tuple[Sequence, int]]) -> None:
        for eviction in plan.evictions:
            output = self.live[name_of(eviction.sequence)]
            assert (eviction.position, eviction.tokens) == (output.computed, output.held)
            assert output.request.budget is not None
            assert output.request.budget.unit == 1
            self.evict(output, eviction.tokens - eviction.keep)
        for sequence, gone in dropped:
            self.evict(self.live[name_of(sequence)], gone)
        for chunk in plan.chunks:
            self.run(chunk)

    def evict(self, output: Output, gone: int) -> None:
        budget = output.request.budget
        assert budget is not None
        if not budget.elastic:
            assert (output.held, gone) == (budget.cap, budget.reclaim)
        elif output.held < budget.cap:
            pending = len(output.request.prompt) + len(output.tokens) - output.computed
            reads_past_its_promise = budget.evict_prompt or output.request.resumed
            assert pending == 1 or reads_past_its_promise, "pressed before it decodes"
        output.held -= gone
        assert output.held >= budget.floor - budget.reclaim >= budget.pinned + budget.recent

    def run(self, chunk: Chunk) -> None:
        output = self.live[name_of(chunk.sequence)]
        budget = output.request.budget
        if chunk.start != output.computed:  # admitted with cached blocks, or once more
            assert output.computed == 0 or budget is None, "a budgeted output was preempted"
            assert chunk.start == chunk.kv_start <= len(output.request.prompt)
            output.computed = output.held = chunk.start
        assert chunk.kv_start == output.held
        output.computed += chunk.count
        output.held += chunk.count
        assert budget is None or output.held <= budget.cap

    def work(self) -> int:
        """Steps that surely suffice, however often outputs push each other out."""
        each = [len(o.request.prompt) + o.request.max_new_tokens for o in self.live.values()]
        return (len(each) + 1) * sum(each) + 1


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
