"""What the engine loop needs of a runner, and the part of its description all runners share."""

from typing import Any, Protocol

from engine.config import EngineConfig
from engine.messages import ModelInfo
from scheduler.plan import StepPlan, StepResult
from scheduler.request import Sequence


class Runner(Protocol):
    """Executes step plans."""

    total_blocks: int  # in its KV pool
    eviction_seconds: float  # spent on evictions, since the start

    def describe(self) -> ModelInfo:
        """What it serves."""
        ...

    def choose_blocks(self, sequence: Sequence, candidates: list[int], count: int) -> list[int]:
        """Which full blocks of a sequence go, where its policy evicts whole blocks.

        Called while a step is planned.

        Args:
            sequence: running.
            candidates: blocks of its table that may go, oldest first; what they hold is written.
            count: how many go; at most as many as there are.
        """
        ...

    def execute(self, plan: StepPlan) -> StepResult:
        """Evictions, then one packed forward, then draws; one result per chunk that samples."""
        ...


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
