"""Everything the engine process is told at its start. No torch: the front builds it too."""

from dataclasses import dataclass, field

from scheduler.budget import BudgetLimits as BudgetLimits
from scheduler.config import SchedulerConfig as SchedulerConfig

FAKE_MODEL = "fake"  # served by FakeRunner: next token by arithmetic, no torch
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("pretty", "json")


@dataclass(frozen=True)
class LogConfig:
    """What both processes write to standard error."""

    log_level: str = "info"  # of LOG_LEVELS
    log_format: str = "pretty"  # of LOG_FORMATS

    def __post_init__(self) -> None:
        for name, allowed in (("log_level", LOG_LEVELS), ("log_format", LOG_FORMATS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}"
                )


@dataclass(frozen=True)
class EngineConfig:
    """The model, where it runs, and its KV pool."""

    model: str = FAKE_MODEL  # "fake", a local directory, or a hub id
    name: str | None = None  # what requests call it; default: last part of `model`
    device: str = "auto"  # "auto": cuda where present, else cpu
    dtype: str = "auto"  # "auto": float32 on cpu, the checkpoint's elsewhere
    kv_dtype: str = "auto"  # of the KV cache; "auto": the model's; "fp8_e4m3": engine/kv_scales.py
    kernels: str = "auto"  # "auto", "triton", "numba" or "reference"
    threads: int | None = None  # of torch and numba; default: a choice by core count
    kv_blocks: int | None = None  # blocks in the pool; default: from memory
    kv_memory_gib: float | None = None  # instead of kv_blocks
    max_sequence_tokens: int | None = None  # default: the model's own limit
    fused: bool = True  # merge projections and fuse small operations where the model allows
    static_steps: bool | None = None  # CUDA graphs for decodes; default: on GPUs
    overlap: bool | None = None  # launch a step before the last is read back; default: on GPUs
    query_ring: int = 32  # recent queries kept per running output for policies; 0: none
    fake_step_seconds: float = 0.0  # FakeRunner sleeps this long in every step
    budgets: BudgetLimits = field(default_factory=BudgetLimits)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    logs: LogConfig = field(default_factory=LogConfig)

    @property
    def served_name(self) -> str:
        return self.name or self.model.rstrip("/").rsplit("/", 1)[-1]
