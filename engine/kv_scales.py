"""The fp8 KV cache: where it may be had, and the scales that its numbers are multiplied by.

A quarter of float32's bytes, half of bfloat16's. A key or value x is stored as the float8_e4m3fn
nearest to x / scale (Micikevicius et al., FP8 Formats for Deep Learning, 2022), with one scale for
each layer and KV head, for keys and for values. What lies beyond 448 * scale is clamped.

Scales are measured once, at start-up: from the largest keys and values of a text of random tokens,
computed with an unquantised cache, so that MARGIN times as much still fits. Random text is not what
users send: on the pocket models the largest numbers of real traces are up to 2.4 times as large. A
wide margin costs nothing, since e4m3 is a floating-point type: a number keeps 3 bits after its
first one wherever it lies within the 14 powers of two below 448 * scale. (Error of the pocket
models' caches, root mean square: .066 without a margin, .027 with one of 2 to 64.)

Policies rank what the cache holds, so they see rounded keys. Without eviction answers stay what
they are; a policy that tells copies by small distances loses by it (benchmarks/kv_dtype.py).
"""

import random
from collections.abc import Callable
from dataclasses import replace

import torch

from engine.config import EngineConfig
from engine.kv_pool import KvPool, KvShape
from engine.loader import LoadedModel
from kernels.checks import FP8, FP8_LARGEST

KV_DTYPES = {"auto": None, "fp8_e4m3": FP8}
TEXT_TOKENS = 256
MARGIN = 8.0
CAPABILITY = (8, 9)  # from which NVIDIA GPUs convert fp8


def with_kv_dtype(loaded: LoadedModel, config: EngineConfig, device: torch.device) -> LoadedModel:
    """The model with the KV type that the configuration asks for in its shape; see with_kv_type."""
    return replace(loaded, shape=with_kv_type(loaded.shape, config, device))


def with_kv_type(shape: KvShape, config: EngineConfig, device: torch.device) -> KvShape:
    """The shape with the KV type that the configuration asks for.

    Raises:
        ValueError: no such type, or the Triton kernels cannot read it on this GPU.
    """
    if config.kv_dtype not in KV_DTYPES:
        allowed = ", ".join(KV_DTYPES)
        raise ValueError(f"kv_dtype is {config.kv_dtype!r}; allowed are {allowed}")
    dtype = KV_DTYPES[config.kv_dtype]
    if dtype is FP8 and config.kernels != "reference":
        _check_device(device)
    return replace(shape, kv_dtype=dtype)


def _check_device(device: torch.device) -> None:
    if device.type != "cuda" or torch.version.hip is not None:
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        raise ValueError(
            f"kv_dtype is 'fp8_e4m3' and this GPU has compute capability {capability[0]}."
            f"{capability[1]}; Triton converts fp8 from 8.9 on, so use kv_dtype 'auto' here"
        )


def measure_scales(
    loaded: LoadedModel, pool: KvPool, fill_exactly: Callable[[list[int]], KvPool]
) -> None:
    """Sets the scales of an fp8 pool; does nothing to any other.

    Args:
        loaded: the model.
        pool: whose scales are set.
        fill_exactly: makes an unquantised pool that holds some tokens, and zeros elsewhere.

    Raises:
        ValueError: the model's keys or values are not finite.
    """
    if pool.key_scales is None or pool.value_scales is None:
        return
    draw = random.Random(0)
    count = min(TEXT_TOKENS, loaded.max_sequence_tokens)
    exact = fill_exactly([draw.randrange(loaded.vocabulary_size) for _ in range(count)])
    for scales, held in ((pool.key_scales, exact.keys), (pool.value_scales, exact.values)):
        largest = held.float().abs().amax(dim=(1, 3, 4))  # [layers, kv_heads]
        if not bool(largest.isfinite().all()):
            raise ValueError(
                f"{loaded.architecture} makes keys or values that are not finite from random "
                "tokens, so they cannot be scaled for fp8; use kv_dtype 'auto'"
            )
        # a head of zeros takes any scale
        scales.copy_((largest * MARGIN / FP8_LARGEST).where(largest > 0, 1.0))
