"""Requests, a bench that runs a scheduler step by step, and the front's end of an engine's pipe."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from engine.messages import Finished, FrontMessage, Ready, Step, decode_engine, encode
from scheduler.budget import Budget, whole
from scheduler.config import SchedulerConfig
from scheduler.plan import Chunk, StepPlan, StepResult
from scheduler.request import FinishReason, Request, Sequence, Usage
from scheduler.scheduler import Scheduler
from tests.scheduler.memory_runner import Draw, MemoryRunner, by_hand

Name = tuple[int, int]  # request key, output

BLOCK = 4  # tokens; small, so that examples are
SMALL: dict[str, Any] = {
    "block_size": BLOCK,
    "max_running": 8,
    "max_waiting": 64,
    "max_batch_tokens": 16,
}

PATIENCE = 10.0  # seconds that a busy machine may need for what takes milliseconds

_keys = itertools.count(1)


def make_request(
    prompt: int | list[int] = 20,
    new: int = 8,
    *,
    cap: int | None = None,
    floor: int | None = None,
    recent: int = 4,
    reclaim: int = 4,
    evict_prompt: bool = False,
    **fields: Any,
) -> Request:
    """A request whose turn comes after all made before it.

    An int as prompt asks for so many tokens that no other request has; `cap` gives a budget, and
    `floor` an elastic one; with a `unit` of BLOCK whole blocks go.
    """
    key = fields.pop("key", None) or next(_keys)
    tokens = range(1000 * key, 1000 * key + prompt) if isinstance(prompt, int) else prompt
    budget = None
    if cap is not None:
        pinned = 1 if evict_prompt else len(tokens)
        unit = fields.pop("unit", 1)
        reclaim = whole(reclaim, unit)
        budget = Budget(cap, "window", {}, recent, pinned, reclaim, evict_prompt, floor, unit)
        never_reached = len(tokens) + new <= budget.floor
        assert never_reached or budget.least <= budget.floor <= cap, "resolve would refuse this"
    return Request(
        **{
            "key": key,
            "prompt": tuple(tokens),
            "max_new_tokens": new,
            "budget": budget,
            **fields,
        }
    )


def make_scheduler(blocks: int = 64, **settings: Any) -> Scheduler:
    """A scheduler over a small pool; `settings` go to SchedulerConfig."""
    return Scheduler(SchedulerConfig(**{**SMALL, **settings}), blocks)


class Bench:
    """A scheduler on a runner that stores and reads back; `check` follows every call."""

    def __init__(
        self, blocks: int = 64, draw: Draw = by_hand, overlap: bool = False, **settings: Any
    ) -> None:
        """With `overlap`, every step is planned and run before the last one is committed."""
        self._overlap = overlap
        self._launched: list[tuple[StepPlan, StepResult]] = []
        config = SchedulerConfig(**{**SMALL, **settings})
        self.runner = MemoryRunner(blocks, config.block_size, config.prefix_cache, draw)
        self.scheduler = Scheduler(config, blocks, self.runner.choose_blocks)
        self.now = 0.0
        self.plans: list[StepPlan] = []
        self.tokens: dict[Name, list[int]] = {}  # drawn, by output
        self.reasons: dict[Name, FinishReason] = {}
        self.usage: dict[Name, Usage] = {}

    def submit(self, *requests: Request) -> int:
        """Queues requests; returns the blocks promised to each output of the last."""
        for request in requests:
            promised = self.scheduler.submit(request)
            self.scheduler.check()
            for output in range(request.n):
                self.tokens[request.key, output] = list(request.resumed)
            self.collect()  # a resumed answer may have lost its end only
        return promised

    def step(self, meanwhile: Callable[[], object] = lambda: None) -> StepPlan:
        """Plan, run, `meanwhile`, commit; a second passes."""
        running = self.scheduler.running
        decoding = [s for s in running if s.pending == 1 and s.length < s.final_length]
        plan = self.scheduler.plan(self.now)
        self.scheduler.check()
        self._check_plan(plan)
        planned = {chunk.sequence for chunk in plan.chunks}
        assert planned.issuperset(s for s in decoding if s.row is not None), "a decode was left out"
        self.plans.append(plan)
        self._launched.append((plan, self.runner.execute(plan)))
        meanwhile()
        self.now += 1.0
        while len(self._launched) > self._overlap:
            for drawn in self.scheduler.commit(*self._launched.pop(0), self.now):
                self.tokens[name_of(drawn.sequence)].append(drawn.token)
            self.collect()
        return plan

    def steps(self, count: int) -> StepPlan:
        """Several steps; the plan of the last."""
        for _ in range(count - 1):
            self.step()
        return self.step()

    def drain(self, limit: int = 5000) -> None:
        """Steps until nothing lives, then proves that nothing is left behind."""
        while self.scheduler.num_live:
            assert limit > 0, "some output never ends"
            limit -= 1
            in_flight = any(not plan.empty for plan, _ in self._launched)
            assert in_flight | (not self.step().empty), "outputs live, but nothing runs"
        check_nothing_is_left(self.scheduler)

    def cancel(self, request: Request) -> bool:
        """Cancels a request."""
        known = self.scheduler.cancel(request.key)
        self.collect()
        return known

    def stop(self, request: Request, output: int = 0) -> bool:
        """Stops one output."""
        known = self.scheduler.stop(request.key, output)
        self.collect()
        return known

    def collect(self) -> None:
        """Books what ended."""
        self.scheduler.check()
        for sequence, reason in self.scheduler.take_finished():
            assert name_of(sequence) not in self.reasons, "an output ended twice"
            self.reasons[name_of(sequence)] = reason
            self.usage[name_of(sequence)] = sequence.usage

    def running(self) -> list[Name]:
        """Who runs, best order first."""
        return [name_of(sequence) for sequence in self.scheduler.running]

    def blocks_of(self, request: Request, output: int = 0) -> list[int]:
        """The block table of a running output."""
        found = (s for s in self.scheduler.running if name_of(s) == (request.key, output))
        return list(next(found).blocks)

    def _check_plan(self, plan: StepPlan) -> None:
        """What every plan keeps: the step's tokens, one chunk each, nobody writes shared blocks."""
        size = self.scheduler.config.block_size
        assert plan.tokens <= self.scheduler.config.max_batch_tokens
        assert len({chunk.sequence for chunk in plan.chunks}) == len(plan.chunks)
        assert len({eviction.sequence for eviction in plan.evictions}) == len(plan.evictions)
        assert [c.count > 1 for c in plan.chunks] == sorted(c.count > 1 for c in plan.chunks)
        holders = Counter(block for s in self.scheduler.running for block in s.blocks)
        for chunk in plan.chunks:
            sequence, end = chunk.sequence, chunk.kv_start + chunk.count
            assert chunk.count > 0
            assert sequence.row is not None, "an output without a place is in the plan"
            known = len(sequence.tokens)
            assert chunk.samples == (chunk.start + chunk.count == sequence.length - chunk.samples)
            assert chunk.start + chunk.count <= known + self._overlap
            written = sequence.blocks[chunk.kv_start // size : -(-end // size)]
            assert all(holders[block] == 1 for block in written), "a shared block is written"


def pressable(scheduler: Scheduler, plan: StepPlan) -> int:
    """Blocks that pressing could still make spare: those that decoding ones hold over their floor.

    Told from tables, after `plan`.
    """
    decoding = {chunk.sequence for chunk in plan.chunks if chunk.count == 1 and chunk.samples}
    size = scheduler.config.block_size
    over = 0
    for sequence in decoding.intersection(scheduler.running):
        budget = sequence.request.budget
        if budget is not None and budget.elastic:
            total = sequence.prompt_tokens + sequence.request.max_new_tokens
            over += max(len(sequence.blocks) - -(-min(total, budget.floor) // size), 0)
    return over


def check_nothing_is_left(scheduler: Scheduler) -> None:
    """Asserts that a scheduler without live outputs has everything back."""
    scheduler.check()
    assert scheduler.num_live == scheduler.num_waiting == len(scheduler.waiting) == 0
    assert scheduler.kv.pool.held == 0, "blocks are leaked"
    assert scheduler.kv.promised == 0, "promises are leaked"
    assert len(scheduler._rows) == scheduler.config.max_running, "rows are leaked"
    assert not scheduler._live
    assert not list(scheduler._followers)
    assert not scheduler.kv._keys
    assert not scheduler._deadlines._members


def chunks_of(plans: list[StepPlan], request: Request, output: int = 0) -> list[Chunk]:
    """What was run of one output, in order."""
    return [c for p in plans for c in p.chunks if name_of(c.sequence) == (request.key, output)]


def first_step(plans: list[StepPlan], request: Request, output: int = 0) -> int:
    """Index of the first plan that runs an output."""
    return next(i for i, plan in enumerate(plans) if chunks_of([plan], request, output))


def tokens_alone(request: Request) -> list[int]:
    """What the request's outputs draw when nothing else runs, by the arithmetic itself."""
    bench = Bench(blocks=1024)
    bench.submit(request)
    bench.drain()
    return bench.tokens[request.key, 0]


def name_of(sequence: Sequence) -> Name:
    """Request key and output."""
    return sequence.request.key, sequence.output


class Front:
    """The other end of the pipe of an engine loop that runs in a thread."""

    def __init__(self, connection: Connection, thread: threading.Thread) -> None:
        self.connection = connection
        self.thread = thread
        ready = self._receive()
        assert isinstance(ready, Ready)
        self.model = ready.model
        self.steps: list[Step] = []

    def send(self, *messages: FrontMessage) -> None:
        for message in messages:
            self.connection.send_bytes(encode(message))

    def step(self) -> Step:
        """The next step's message."""
        message = self._receive()
        assert isinstance(message, Step)
        self.steps.append(message)
        return message

    def until(self, done: Callable[[Step], object]) -> Step:
        """Steps until one is as wanted."""
        while not done(step := self.step()):
            pass
        return step

    def until_finished(self, count: int = 1) -> list[Finished]:
        """Steps until so many outputs have ended, since the start."""
        while len(self.finished) < count:
            self.step()
        return self.finished

    @property
    def finished(self) -> list[Finished]:
        return [finished for step in self.steps for finished in step.finished]

    def tokens(self, key: int, output: int = 0) -> list[int]:
        """What was delivered of one output."""
        deltas = [delta for step in self.steps for delta in step.deltas]
        return [t for d in deltas if (d.key, d.output) == (key, output) for t in d.ids]

    def ends(self) -> bool:
        """Whether the loop has ended soon."""
        self.thread.join(PATIENCE)
        return not self.thread.is_alive()

    def _receive(self) -> object:
        assert self.connection.poll(PATIENCE), "the engine is silent"
        return decode_engine(self.connection.recv_bytes())
