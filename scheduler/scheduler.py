"""Continuous batching under KV budgets: submit, plan, commit, cancel.

The loop is `plan = scheduler.plan(now)`, run it, `scheduler.commit(plan, result, now)`. A plan
takes effect on the books at once (tokens computed, blocks taken and freed); commit adds what was
drawn. One more plan may be made, and launched, before the last one is committed: its decodes run on
tokens that are still in flight, so steps must be executed in the order of their plans. What ends in
between wastes its last decode and nothing else. Knows counts and ids; not tensors, text or clients.
One thread.
"""

import bisect

from scheduler.config import SchedulerConfig
from scheduler.kv import KvLedger
from scheduler.plan import Chunk, Drawn, StepPlan, StepResult, Totals, lay_out
from scheduler.queue import DeadlineQueue, Followers
from scheduler.request import FinishReason, Request, Sequence
from scheduler.rounds import ChooseBlocks, Rounds, oldest_blocks
from scheduler.waiting import WaitingQueue


class Scheduler:
    """Decides what runs in every step. See docs/architecture.md for its invariants."""

    def __init__(
        self,
        config: SchedulerConfig,
        total_blocks: int,
        choose_blocks: ChooseBlocks = oldest_blocks,
    ) -> None:
        """`choose_blocks` ranks for policies that evict whole blocks, while a step is planned."""
        if config.max_batch_tokens < config.max_running:
            raise ValueError(
                f"max_batch_tokens is {config.max_batch_tokens}, which cannot hold one token of "
                f"each of max_running={config.max_running} outputs; raise it or lower max_running"
            )
        self.config = config
        self.kv = KvLedger(total_blocks, config.block_size, config.prefix_cache)
        self.waiting = WaitingQueue(config.max_waiting)
        self.running: list[Sequence] = []  # best order first
        self.totals = Totals()
        self._choose_blocks = choose_blocks
        self._live: dict[int, list[Sequence]] = {}  # by request key
        self._followers = Followers()
        self._rows = list(range(config.max_running - 1, -1, -1))
        self._deadlines = DeadlineQueue()
        self._finished: list[tuple[Sequence, FinishReason]] = []
        self._num_live = 0
        self._now = 0.0  # of the last plan

    # --- intake

    @property
    def num_live(self) -> int:
        """Outputs that wait or run."""
        return self._num_live

    @property
    def num_waiting(self) -> int:
        return self._num_live - len(self.running)

    def submit(self, request: Request) -> int:
        """Queues a request; returns the blocks promised to each output (0 without a budget).

        Raises:
            InvalidRequest: it could never fit.
            QueueFull, QuotaExceeded: too many outputs wait, or the tenant would have too much.
        """
        if request.key in self._live:
            raise ValueError(f"request key {request.key} is live already")
        needed = self.kv.fitting_blocks(request)
        self.waiting.enter(request, self.num_waiting, len(self.running))
        tokens = [*request.prompt, *request.resumed]
        counts = self.kv.classes.of(request.budget)
        counts.live += request.n
        sequences = [Sequence(request, i, tokens.copy(), counts) for i in range(request.n)]
        self._live[request.key] = sequences
        self._num_live += request.n
        self.waiting.push(sequences[0])
        if request.shares_prompt and len(request.prompt) > self.config.block_size:
            self._followers.hold(sequences[1:])
        else:
            for sequence in sequences[1:]:
                self.waiting.push(sequence)
        if request.deadline is not None:
            self._deadlines.push(request.deadline, request.key)
        self._finish_if_over(sequences[0])  # only its end was lost
        return 0 if request.budget is None else needed

    def cancel(self, key: int, reason: FinishReason = FinishReason.CANCELLED) -> bool:
        """Ends all outputs of a request at once; False if it is not live."""
        sequences = list(self._live.get(key, ()))
        for sequence in sequences:
            self._finish(sequence, reason)
        return bool(sequences)

    def stop(self, key: int, output: int) -> bool:
        """Ends one output with STOP (its text held a stop string); False if it is not live."""
        for sequence in self._live.get(key, ()):
            if sequence.output == output:
                self._finish(sequence, FinishReason.STOP)
                return True
        return False

    def take_finished(self) -> list[tuple[Sequence, FinishReason]]:
        """What ended since the last call, with final usage."""
        finished, self._finished = self._finished, []
        return finished

    # --- the step

    def plan(self, now: float) -> StepPlan:
        """The next step; empty when nothing can run."""
        self._now = now
        for key in self._deadlines.passed(now):
            self.cancel(key, FinishReason.DEADLINE)
        rounds = Rounds(self.kv, self.totals, self.running, self._choose_blocks)
        block_size = self.config.block_size
        decoding = sum([s.pending == 1 and s.length < s.final_length for s in self.running])
        room = self.config.max_batch_tokens - decoding  # for prefill
        reserved: list[tuple[Sequence, int]] = []
        for sequence in list(self.running):
            if sequence.row is None or sequence.length == sequence.final_length:
                continue  # preempted in this very loop, for a better one; or its last is in flight
            pending = sequence.length - sequence.computed
            if pending > 1:
                if room > 0:
                    count = self._reserve(sequence, min(pending, room), rounds)
                    reserved.append((sequence, count))
                    room -= count
            elif sequence.kv_tokens < min(sequence.cap, len(sequence.blocks) * block_size):
                reserved.append((sequence, 1))  # most decodes: a slot is there
            else:
                reserved.append((sequence, self._reserve(sequence, 1, rounds)))
        while room > 0 and self._rows:
            head = self.waiting.head()
            if head is None or not self._admit(head, rounds):
                break
            count = self._reserve(head, min(head.pending, room), rounds)
            assert count > 0, "an admitted output found no room"
            reserved.append((head, count))
            room -= count
        self.waiting.held_up(rows=bool(self._rows), room=room > 0)
        self.waiting.charge(reserved)
        # Laid out last: until here, whoever needs blocks may still have others evicted.
        chunks = [lay_out(sequence, count, now) for sequence, count in reserved if count > 0]
        chunks.sort(key=_decodes_first)
        return StepPlan(list(rounds.evictions.values()), chunks)

    def commit(self, plan: StepPlan, result: StepResult, now: float) -> list[Drawn]:
        """Books what the step drew: new tokens, ends, prompt blocks that others may now share."""
        drawn = []
        tokens = iter(result.tokens)
        logprobs = iter(result.logprobs or [None] * len(result.tokens))
        for chunk in plan.chunks:
            sequence = chunk.sequence
            if chunk.start < len(sequence.request.prompt):
                self._prefilled(sequence)
            if not chunk.samples:
                continue
            token, logprob = next(tokens), next(logprobs)
            if sequence.ended:
                continue  # while the step ran
            if token is None:
                self.kv.withdraw(sequence)  # entries that are not finite would spoil every sharer
                self.cancel(sequence.request.key, FinishReason.ERROR)
                continue
            self._append(sequence, token, now)
            drawn.append(Drawn(sequence, token, logprob))
        self.totals.generation_tokens += len(drawn)
        return drawn

    def check(self) -> None:
        """Asserts every invariant of the books; call it after any step."""
        self.kv.check(self.running)
        rows = [sequence.row for sequence in self.running if sequence.row is not None]
        assert len(rows) == len(self.running)
        assert sorted(self._rows + rows) == list(range(self.config.max_running))
        assert self.running == sorted(self.running, key=_rank)
        for sequence in self.running:
            budget = sequence.request.budget
            assert budget is None or sequence.kv_tokens <= budget.cap
            assert len(sequence.tokens) <= sequence.length <= len(sequence.tokens) + 2
            assert sequence not in self.waiting
        live = {sequence for outputs in self._live.values() for sequence in outputs}
        followers = set(self._followers)
        waiting = {sequence for sequence in live - followers if sequence in self.waiting}
        assert len(self.waiting) == len(waiting)
        assert live == set(self.running) | waiting | followers
        assert len(live) == self._num_live
        self.kv.check_classes(live)
        self.waiting.check(live)
        assert all(not sequence.blocks for sequence in waiting | followers)

    # --- parts of a step

    def _reserve(self, sequence: Sequence, count: int, rounds: Rounds) -> int:
        """Makes room for at most `count` tokens, evicting or preempting for it; for how many."""
        if sequence.request.budget is not None:
            return rounds.reserve(sequence, count)
        while (lacking := self.kv.lacking_to_grow(sequence, count)) > 0:
            if not rounds.press(lacking):
                victim = self._victim()
                self._preempt(victim)
                if victim is sequence:
                    return 0
        self.kv.grow(sequence, count)
        return count

    def _admit(self, sequence: Sequence, rounds: Rounds) -> bool:
        if sequence.in_flight:
            return False  # preempted: recomputed once all its tokens are known
        growing = sum(running.request.budget is None for running in self.running)
        lacking = self.kv.lacking_to_admit(sequence, growing)
        if lacking > 0 and not rounds.press(lacking):
            return False
        self.kv.admit(sequence, growing)
        self.waiting.admit(sequence)
        sequence.row = self._rows.pop()
        bisect.insort(self.running, sequence, key=_rank)
        if sequence.first_scheduled is None:  # what it wrote before a preemption is no hit
            sequence.usage.cached_prompt_tokens = sequence.computed
            self.totals.cached_prompt_tokens += sequence.computed
        return True

    def _victim(self) -> Sequence:
        """The last in order of those without a budget; the one that asks is among them."""
        return next(s for s in reversed(self.running) if s.request.budget is None)

    def _preempt(self, sequence: Sequence) -> None:
        """Takes a sequence's blocks; it waits again and recomputes all its tokens."""
        self._leave(sequence)
        sequence.usage.preemptions += 1
        self.totals.preemptions += 1
        self.waiting.push(sequence)

    def _prefilled(self, sequence: Sequence) -> None:
        """Publishes prompt blocks; once the prompt is computed, its other outputs may come."""
        if sequence.row is None:
            return
        self.kv.publish(sequence)
        if sequence.computed >= sequence.prompt_tokens:
            for follower in self._followers.release(sequence.request.key):
                self.waiting.push(follower)

    def _append(self, sequence: Sequence, token: int, now: float) -> None:
        sequence.tokens.append(token)
        if sequence.first_token is None:
            sequence.first_token = now
            self.totals.prompt_tokens += sequence.prompt_tokens
        sequence.usage.decode_seconds = now - sequence.first_token
        self._finish_if_over(sequence)

    def _finish_if_over(self, sequence: Sequence) -> None:
        if (reason := sequence.end) is not None:
            self._finish(sequence, reason)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """Ends an output in whatever state it is; everything it held is free on return."""
        request, usage = sequence.request, sequence.usage
        sequence.ended = True
        usage.completion_tokens = sequence.generated
        usage.kv_tokens_final = sequence.kv_tokens
        scheduled = self._now if sequence.first_scheduled is None else sequence.first_scheduled
        usage.queue_seconds = max(scheduled - request.arrival, 0.0)
        if sequence.first_token is not None:
            usage.prefill_seconds = sequence.first_token - scheduled
        if sequence.row is not None:
            self._leave(sequence)
        self.waiting.end(sequence)
        if (heir := self._followers.discard(sequence)) is not None:
            self.waiting.push(heir)
        outputs = self._live[request.key]
        outputs.remove(sequence)
        sequence.budget_class.live -= 1
        self._num_live -= 1
        if not outputs:
            del self._live[request.key]
            self._deadlines.discard(request.key)
            self.kv.forget(request)
        self._finished.append((sequence, reason))

    def _leave(self, sequence: Sequence) -> None:
        assert sequence.row is not None
        self.kv.release(sequence)
        self.waiting.leave(sequence)
        del self.running[bisect.bisect_left(self.running, sequence.rank, key=_rank)]
        self._rows.append(sequence.row)
        sequence.row = None


def _rank(sequence: Sequence) -> tuple[int, float, int, int]:
    return sequence.rank


def _decodes_first(chunk: Chunk) -> bool:
    return chunk.count > 1
