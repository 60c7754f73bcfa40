"""What the engine loop needs of a runner, and the part of its description all runners share."""

from abc import ABC, abstractmethod
from typing import Any, Protocol

from engine.config import EngineConfig
from engine.messages import ModelInfo
from scheduler.plan import StepPlan, StepResult
from scheduler.request import Sequence


class StepFailed(Exception):
    """A step could not be launched; its sequences are spoilt, and nothing else is."""


class InFlight(Protocol):
    """A launched step."""

    def result(self) -> StepResult:
        """What it drew, one entry per chunk that samples; waits for it if need be."""
        ...


class Runner(ABC):
    """Executes step plans, in the order in which they are launched."""

    total_blocks: int  # in its KV pool
    eviction_seconds: float  # spent on evictions, since the start
    overlaps: bool = False  # whether the next step should be launched before a result is read

    @abstractmethod
    def describe(self) -> ModelInfo:
        """What it serves."""

    @abstractmethod
    def choose_blocks(self, sequence: Sequence, candidates: list[int], count: int) -> list[int]:
        """Which full blocks of a sequence go, where its policy evicts whole blocks.

        Called while a step is planned.

        Args:
            sequence: running.
            candidates: blocks of its table that may go, oldest first; what they hold is written.
            count: how many go; at most as many as there are.
        """

    @abstractmethod
    def launch(self, plan: StepPlan) -> InFlight:
        """Evictions, then one packed forward, then draws. A plan may decode tokens that are still
        in flight: those that the step before draws.

        Raises:
            StepFailed: the runner is sound, and takes the next plan. Any other error ends it.
        """

    def execute(self, plan: StepPlan) -> StepResult:
        """Launches a plan and waits for its result."""
        return self.launch(plan).result()


def build_model_info(config: EngineConfig, **of_the_model: Any) -> ModelInfo:
    """ModelInfo with what the configuration says filled in."""
    known: dict[str, Any] = {
        "name": config.served_name,
        "block_size": config.scheduler.block_size,
        "kv_bytes_per_token": 0,
        "dtype": "none",
        "device": "cpu",
        "kernels": "none",
        "default_kv_budget": config.budgets.default_tokens,
        "max_kv_budget": config.budgets.max_tokens,
        "default_policy": config.budgets.default_policy,
        "max_running": config.scheduler.max_running,
        "max_waiting": config.scheduler.max_waiting,
    }
    return ModelInfo(**{**known, **of_the_model})
