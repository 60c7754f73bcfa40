"""What trigonometric_score means, in torch."""

import torch
from torch import Tensor


def trigonometric_score(
    keys: Tensor,
    next_positions: Tensor,
    query_mean: Tensor,
    query_length: Tensor,
    frequencies: Tensor,
    offsets: tuple[int, ...],
) -> Tensor:
    """See `kernels.trigonometric_score.trigonometric_score`."""
    mean = as_complex(query_mean)
    asking = turned(mean, next_positions, frequencies, offsets).unflatten(2, (keys.shape[2], -1))
    spread = (query_length - mean.abs()).unflatten(1, (keys.shape[2], -1))
    wide = keys.float()
    scores = asking @ wide.mT + spread @ as_complex(wide).abs().mT
    return scores.flatten(2, 3)  # [sequences, layers, heads, tokens]


def turned(
    mean: Tensor, next_positions: Tensor, frequencies: Tensor, offsets: tuple[int, ...]
) -> Tensor:
    """Mean queries as they will be, rotated, at the offsets from each sequence's next position.

    Args:
        mean: [layers, heads, head_dim / 2] complex64.
        next_positions, frequencies, offsets: those of `trigonometric_score`.

    Returns:
        [sequences, layers, heads, head_dim] float32.
    """
    ahead = torch.tensor(offsets, dtype=torch.float64, device=frequencies.device)
    turns = turn(frequencies[..., None] * ahead).mean(dim=-1)  # [layers, head_dim / 2]
    turns = turn(next_positions[:, None, None] * frequencies) * turns
    numbers = mean * turns[:, :, None].to(torch.complex64)
    return torch.cat([numbers.real, numbers.imag], dim=-1)


def as_complex(vectors: Tensor) -> Tensor:
    """[..., head_dim] float32 as [..., head_dim / 2] complex64."""
    return torch.complex(*vectors.chunk(2, dim=-1))


def turn(angles: Tensor) -> Tensor:
    """exp(i angles), complex128 for float64."""
    return torch.polar(torch.ones_like(angles), angles)
