"""One step after another: plan, launch, commit."""

import time

from engine.runner_api import InFlight, Runner
from scheduler.plan import Drawn, StepPlan
from scheduler.scheduler import Scheduler


class Steps:
    """Drives a scheduler and a runner; where steps overlap, one stays in flight."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._in_flight: tuple[StepPlan, InFlight] | None = None

    def step(self) -> tuple[StepPlan, list[Drawn]]:
        """Plans and launches a step; commits it, or the one before it where steps overlap.

        Returns:
            The plan, and what the committed step drew.
        """
        plan = self._scheduler.plan(time.monotonic())
        done, self._in_flight = self._in_flight, None
        if not plan.empty:
            launched = plan, self._runner.launch(plan)
            if self._runner.overlaps:
                self._in_flight = launched
            else:
                done = launched
        if done is None:
            return plan, []
        committed, step = done
        return plan, self._scheduler.commit(committed, step.result(), time.monotonic())
