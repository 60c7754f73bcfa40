"""The engine loop: intake, plan, execute, commit, one message to the front per step.

Owns scheduler and runner; one thread, so neither needs a lock. Ends on Shutdown or when the front
is gone (end of file on the pipe).
"""

import time
from multiprocessing.connection import Connection

from engine.intake import build_request
from engine.messages import (
    Accepted,
    BudgetClass,
    Cancel,
    Delta,
    Finished,
    FrontMessage,
    Load,
    Ready,
    Refusal,
    Refused,
    Shutdown,
    Step,
    Stop,
    Submit,
    decode_front,
    encode,
)
from engine.runner_api import Runner
from engine.steps import Steps
from scheduler.config import SchedulerConfig
from scheduler.errors import InvalidRequest, PolicyUnavailable, QueueFull, QuotaExceeded
from scheduler.plan import Drawn
from scheduler.scheduler import Scheduler
from scheduler.waiting import WaitReason


class EngineLoop:
    """Runs steps while there is work and waits for messages while there is none."""

    def __init__(self, runner: Runner, config: SchedulerConfig, connection: Connection) -> None:
        self._runner = runner
        self._model = runner.describe()
        self._scheduler = Scheduler(config, runner.total_blocks, runner.choose_blocks)
        self._connection = connection
        self._accepted: list[Accepted] = []
        self._refused: list[Refused] = []
        self._ignored = 0
        self._stopping = False
        self._steps = Steps(self._scheduler, runner)

    def run(self) -> None:
        """Serves until Shutdown or end of file."""
        try:
            self._connection.send_bytes(encode(Ready(self._model)))
            while not self._stopping:
                self._receive()
                if not self._stopping:
                    self._step()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the front is gone, and with it everybody who waits for tokens

    def _receive(self) -> None:
        """Takes what has arrived; blocks only when there is nothing else to do."""
        wait = None if self._scheduler.num_live == 0 else 0.0
        while self._connection.poll(wait):
            self._handle(decode_front(self._connection.recv_bytes()))
            wait = 0.0

    def _handle(self, message: FrontMessage) -> None:
        match message:
            case Submit():
                self._submit(message)
            case Cancel(key):
                self._ignored += not self._scheduler.cancel(key)
            case Stop(key, output):
                self._ignored += not self._scheduler.stop(key, output)
            case Shutdown():
                self._stopping = True

    def _submit(self, submit: Submit) -> None:
        try:
            request = build_request(submit, self._model)
            blocks = self._scheduler.submit(request)
        except InvalidRequest as error:
            self._refused.append(Refused(submit.key, Refusal.INVALID, error.field, error.message))
        except PolicyUnavailable as error:
            self._refused.append(
                Refused(submit.key, Refusal.UNAVAILABLE_POLICY, "kv_budget.policy", str(error))
            )
        except QueueFull as error:
            self._refused.append(
                Refused(submit.key, Refusal.QUEUE_FULL, "", str(error), error.retry_seconds)
            )
        except QuotaExceeded as error:
            self._refused.append(
                Refused(submit.key, Refusal.QUOTA, error.quota, error.message, error.retry_seconds)
            )
        else:
            budget = request.budget
            self._accepted.append(
                Accepted(
                    key=request.key,
                    prompt_tokens=len(request.prompt),
                    max_tokens=request.max_new_tokens,
                    kv_budget=budget.cap if budget else 0,
                    policy=budget.policy if budget else "",
                    recent_tokens=budget.recent if budget else 0,
                    sink_tokens=budget.pinned if budget else 0,
                    reclaim_tokens=budget.reclaim if budget else 0,
                    blocks_promised=blocks,
                    min_tokens=budget.floor if budget else 0,
                )
            )

    def _step(self) -> None:
        started, evicting = time.monotonic(), self._runner.eviction_seconds
        plan, drawn = self._steps.step()
        finished = [
            Finished(sequence.request.key, sequence.output, reason, sequence.usage)
            for sequence, reason in self._scheduler.take_finished()
        ]
        accepted, self._accepted = self._accepted, []
        refused, self._refused = self._refused, []
        message = Step(
            accepted,
            refused,
            _deltas(drawn),
            finished,
            self._load(),
            plan.tokens,
            time.monotonic() - started,
            self._runner.eviction_seconds - evicting,
            len(plan.chunks),
            plan.prefill_tokens,
        )
        self._connection.send_bytes(encode(message))

    def _load(self) -> Load:
        scheduler = self._scheduler
        elastic = 0
        for sequence in scheduler.running:
            budget = sequence.request.budget
            if budget is not None and sequence.kv_tokens > budget.floor:
                elastic += sequence.kv_tokens - budget.floor
        pool, totals, classes = scheduler.kv.pool, scheduler.totals, list(scheduler.kv.classes)
        return Load(
            running=len(scheduler.running),
            waiting=scheduler.num_waiting,
            blocks_used=pool.held,
            blocks_free=pool.free,
            blocks_cached=pool.idle,
            blocks_promised=scheduler.kv.promised,
            tokens_resident=sum(counts.tokens for counts in classes),
            prompt_tokens_total=totals.prompt_tokens,
            cached_prompt_tokens_total=totals.cached_prompt_tokens,
            generation_tokens_total=totals.generation_tokens,
            preemptions_total=totals.preemptions,
            tokens_evicted_total=dict(totals.evicted),
            eviction_rounds_total=dict(totals.rounds),
            ignored_events_total=self._ignored,
            steps_failed_total=self._steps.failed,
            tokens_pressed_total=totals.pressed,
            tokens_elastic=elastic,
            blocks_shared=pool.shared,
            budget_classes=[
                BudgetClass(c.bound, c.running, c.waiting, c.blocks, c.tokens) for c in classes
            ],
            waiting_by_reason=_waiting_by_reason(scheduler),
        )


def _waiting_by_reason(scheduler: Scheduler) -> dict[WaitReason, int]:
    queued = len(scheduler.waiting)
    counts = {
        scheduler.waiting.reason: queued,
        WaitReason.SHARED_PROMPT: scheduler.num_waiting - queued,
    }
    return {reason: count for reason, count in counts.items() if count}


def _deltas(drawn: list[Drawn]) -> list[Delta]:
    return [
        Delta(
            token.sequence.request.key,
            token.sequence.output,
            [token.token],
            None if token.logprobs is None else [(token.logprobs.logprob, token.logprobs.top)],
        )
        for token in drawn
    ]
