"""What a configuration would get on this machine, without loading the model's weights.

`sluice doctor` asks. On a CPU the numbers are those the engine will have; on a GPU the pool is an
estimate, because the engine measures what its largest step takes and this only reckons it.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from engine.config import FAKE_MODEL, EngineConfig
from engine.device import choose_device
from engine.fake import FAKE_BLOCKS, FAKE_SEQUENCE_TOKENS
from engine.kv_scales import with_kv_type
from engine.loader import dtype_of, kv_shape, sequence_limit
from engine.memory import CPU_POOL_BYTES, SPARE, blocks_within
from kernels.impl import resolve

BUDGETS = (512, 1024, 2048, 4096, 8192, 16384)
LOGIT_COPIES = 3  # of a step, in float32: as drawn, scaled, sorted


@dataclass(frozen=True)
class Machine:
    """What torch sees."""

    device: str  # as the engine would choose it
    name: str  # of the GPU; empty on a CPU
    capability: str  # of an NVIDIA GPU; empty elsewhere
    memory_bytes: int  # of the GPU; 0 on a CPU
    free_bytes: int
    toolkit: str  # that torch was built with, "CUDA 12.8" for instance


@dataclass(frozen=True)
class PoolEstimate:
    """The KV pool a configuration gets."""

    kernels: str
    dtype: str
    kv_bytes_per_token: int
    pool_bytes_per_token: int  # with the position and received attention of each slot
    weight_bytes: int  # 0 where the files are not here
    max_sequence_tokens: int
    max_running: int
    block_size: int
    blocks: int
    limit: str  # what decided how many


@dataclass(frozen=True)
class Concurrency:
    """How many requests of one budget run at once, all of the model's whole length."""

    budget: int | None  # None: the whole cache
    blocks: int  # that each one reserves; holds at its end, for the whole cache
    at_once: int
    limit: str  # what keeps it from being more


def machine(device: str = "auto") -> Machine:
    """The device that `device` names.

    Raises:
        ValueError: there is no such device.
    """
    toolkit = "no GPU toolkit"
    if torch.version.cuda or torch.version.hip:
        toolkit = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"HIP {torch.version.hip}"
    chosen = choose_device(device)
    if chosen.type != "cuda":
        return Machine(str(chosen), "", "", 0, 0, toolkit)
    free, total = torch.cuda.mem_get_info(chosen)
    capability = ""
    if torch.version.hip is None:
        capability = ".".join(map(str, torch.cuda.get_device_capability(chosen)))
    return Machine(
        str(chosen), torch.cuda.get_device_name(chosen), capability, total, free, toolkit
    )


def pool_estimate(config: EngineConfig) -> PoolEstimate:
    """The pool of `config.model` on this machine.

    Raises:
        OSError: there is no such model.
        ValueError: a setting is not allowed, or not even one block fits.
        ImportError: the kernels asked for are not installed.
    """
    settings = config.scheduler
    if config.model == FAKE_MODEL:
        return PoolEstimate(
            kernels="none",
            dtype="none",
            kv_bytes_per_token=0,
            pool_bytes_per_token=0,
            weight_bytes=0,
            max_sequence_tokens=config.max_sequence_tokens or FAKE_SEQUENCE_TOKENS,
            max_running=settings.max_running,
            block_size=settings.block_size,
            blocks=config.kv_blocks or FAKE_BLOCKS,
            limit="--kv-blocks" if config.kv_blocks else "the fake model's own number",
        )
    device = choose_device(config.device)
    text = AutoConfig.from_pretrained(config.model, trust_remote_code=False).get_text_config()
    dtype = dtype_of(config, device)
    if not isinstance(dtype, torch.dtype):
        dtype = getattr(text, "dtype", None) or torch.float32
    shape = with_kv_type(kv_shape(text, dtype), config, device)
    longest = sequence_limit(text, config.max_sequence_tokens)
    weights = _weight_bytes(config.model)
    memory, limit = _memory(config, device, weights, text)
    blocks = config.kv_blocks
    if blocks is None:
        blocks = blocks_within(memory, shape.pool_bytes_per_token, longest, settings)
        if blocks * settings.block_size >= settings.max_running * longest:
            limit = "--max-running outputs of the longest kind"
    impl = None if config.kernels == "auto" else config.kernels
    return PoolEstimate(
        kernels=str(resolve(impl, torch.empty(0, dtype=dtype, device=device))),
        dtype=shape.dtype_name,
        kv_bytes_per_token=shape.bytes_per_token,
        pool_bytes_per_token=shape.pool_bytes_per_token,
        weight_bytes=weights,
        max_sequence_tokens=longest,
        max_running=settings.max_running,
        block_size=settings.block_size,
        blocks=blocks,
        limit=limit,
    )


def concurrency(pool: PoolEstimate) -> list[Concurrency]:
    """By budget, those that the model's length reaches, then the whole cache."""
    longest = pool.max_sequence_tokens
    rows = [_concurrency(pool, budget) for budget in BUDGETS if budget < longest]
    return [*rows, _concurrency(pool, None)]


def _concurrency(pool: PoolEstimate, budget: int | None) -> Concurrency:
    tokens = pool.max_sequence_tokens if budget is None else budget
    blocks = -(-tokens // pool.block_size)
    fitting = pool.blocks // blocks
    limit = "KV pool" if fitting < pool.max_running else "--max-running"
    return Concurrency(budget, blocks, min(fitting, pool.max_running), limit)


def _memory(
    config: EngineConfig, device: torch.device, weights: int, text: object
) -> tuple[int, str]:
    """Bytes for the pool, and what decided."""
    if config.kv_blocks is not None:
        return 0, "--kv-blocks"
    if config.kv_memory_gib is not None:
        return int(config.kv_memory_gib * (1 << 30)), "--kv-memory-gib"
    if device.type != "cuda":
        return CPU_POOL_BYTES, "the default of 1 GiB on CPUs; see --kv-memory-gib"
    free, total = torch.cuda.mem_get_info(device)
    settings = config.scheduler
    logits = 4 * LOGIT_COPIES * settings.max_running * int(getattr(text, "vocab_size", 0))
    states = 16 * settings.max_batch_tokens * int(getattr(text, "intermediate_size", 0) or 0)
    left = free - weights - 2 * (logits + states) - SPARE * total
    return max(int(left), 0), "about what the GPU has free beside weights and steps"


def _weight_bytes(model: str) -> int:
    return sum(path.stat().st_size for path in Path(model).glob("model*.safetensors"))
