"""Random numbers without a generator's state, for policies that draw.

splitmix64, two rounds to make a stream and one per entry, so a draw depends on nothing but the
view's seed, layer, KV head and logical position: not on batch, slot or device.
"""

import torch

from engine.eviction.base import CacheView

# splitmix64's constants as signed int64, whose products wrap modulo 2**64.
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def uniform(view: CacheView) -> torch.Tensor:
    """One number per entry, uniform in [0, 1).

    Returns:
        [sequences, layers, kv_heads, tokens] float32, multiples of 2**-24.
    """
    _, layers, kv_heads, _ = view.positions.shape
    heads = torch.arange(layers * kv_heads, device=view.seeds.device).view(layers, kv_heads)
    streams = _mix(_mix(view.seeds)[:, None, None] + heads * _STEP)  # [sequences, layers, kv_heads]
    bits = _mix(streams[..., None] + view.positions.long() * _STEP)
    return _shift_right(bits, 40).float() / (1 << 24)


def _mix(state: torch.Tensor) -> torch.Tensor:
    """splitmix64's output function: every bit of the result depends on every bit of `state`."""
    state = (state ^ _shift_right(state, 30)) * _MIX_1
    state = (state ^ _shift_right(state, 27)) * _MIX_2
    return state ^ _shift_right(state, 31)


def _shift_right(state: torch.Tensor, bits: int) -> torch.Tensor:
    """Of an int64 read as unsigned; `>>` alone would copy the sign in."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
