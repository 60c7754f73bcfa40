"""How many KV blocks the pool gets: as configured, else what memory allows and the load can use."""

from collections.abc import Callable

import torch

from engine.config import EngineConfig, SchedulerConfig
from engine.loader import LoadedModel

CPU_POOL_BYTES = 1 << 30
SPARE = 0.04  # of a GPU's memory, for what is taken later: fragments, libraries, rare requests


def total_blocks(
    config: EngineConfig,
    loaded: LoadedModel,
    device: torch.device,
    run_largest_step: Callable[[], None],
) -> int:
    """Blocks in the pool.

    Args:
        config: says how many, or how much memory, or leaves both open.
        loaded: the model, in memory.
        device: where the pool will be.
        run_largest_step: computes the largest step there can be, on a pool of its own; called where
            what that takes decides.

    Raises:
        ValueError: not even one block fits.
    """
    settings = config.scheduler
    if config.kv_blocks is not None:
        return config.kv_blocks
    if config.kv_memory_gib is not None:
        memory = int(config.kv_memory_gib * (1 << 30))
    elif device.type == "cuda":
        memory = _free_beside_steps(device, run_largest_step)
    else:
        memory = CPU_POOL_BYTES
    per_token = loaded.shape.pool_bytes_per_token
    return blocks_within(memory, per_token, loaded.max_sequence_tokens, settings)


def blocks_within(
    memory: int, bytes_per_token: int, max_sequence_tokens: int, settings: SchedulerConfig
) -> int:
    """Blocks that fit into so many bytes, but no more than the load can use.

    Raises:
        ValueError: not even one block fits.
    """
    affordable = memory // (bytes_per_token * settings.block_size)
    useful = settings.max_running * -(-max_sequence_tokens // settings.block_size)
    if affordable < 1:
        raise ValueError(f"{memory} bytes hold no KV block of this model; give the pool more")
    return min(affordable, useful)


def _free_beside_steps(device: torch.device, run_largest_step: Callable[[], None]) -> int:
    """Bytes that are free while the largest step runs, once eagerly and once captured."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run_largest_step()
    torch.cuda.synchronize(device)
    activations = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return int(free - 2 * activations - SPARE * total)
