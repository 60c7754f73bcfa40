"""One step after another: plan, launch, commit."""

import logging
import time

from engine.runner_api import InFlight, Runner, StepFailed
from scheduler.plan import Drawn, StepPlan
from scheduler.request import FinishReason
from scheduler.scheduler import Scheduler

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 8  # of steps; then it is the engine that is broken, and a new one may help


class Steps:
    """Drives a scheduler and a runner; where steps overlap, one stays in flight."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._in_flight: tuple[StepPlan, InFlight] | None = None
        self._failed_in_a_row = 0
        self.failed = 0  # since the start

    def step(self) -> tuple[StepPlan, list[Drawn]]:
        """Plans and launches a step; commits it, or the one before it where steps overlap.

        Returns:
            The plan, and what the committed step drew.

        Raises:
            StepFailed: the last of FAILURES_IN_A_ROW.
        """
        plan = self._scheduler.plan(time.monotonic())
        done, self._in_flight = self._in_flight, None
        failure = None
        if not plan.empty:
            try:
                launched = plan, self._runner.launch(plan)
            except StepFailed as error:
                failure = error
            else:
                self._failed_in_a_row = 0
                if self._runner.overlaps:
                    self._in_flight = launched
                else:
                    done = launched
        drawn: list[Drawn] = []
        if done is not None:
            committed, step = done
            drawn = self._scheduler.commit(committed, step.result(), time.monotonic())
        if failure is not None:
            self._lose(plan, failure)
        return plan, drawn

    def _lose(self, plan: StepPlan, failure: StepFailed) -> None:
        """Ends the requests of a plan: of what it wrote and moved, nobody knows how much."""
        self.failed += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row == FAILURES_IN_A_ROW:
            raise failure
        sequences = [chunk.sequence for chunk in plan.chunks]
        sequences += [eviction.sequence for eviction in plan.evictions]
        keys = {sequence.request.key for sequence in sequences}
        log.error("a step failed; %d requests are lost", len(keys), exc_info=failure)
        for key in keys:
            self._scheduler.cancel(key, FinishReason.LOST)
