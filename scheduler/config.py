"""The scheduler's settings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SchedulerConfig:
    """How much may run at once."""

    block_size: int = 16  # KV entries per block
    max_running: int = 64  # outputs
    max_waiting: int = 4096  # outputs
    max_batch_tokens: int = 1024  # in one step; decodes first, prefill chunks fill the rest
    prefix_cache: bool = True
