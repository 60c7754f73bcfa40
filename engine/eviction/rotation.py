"""Rotary embedding as complex numbers: halves (i, i + head_dim / 2) of a vector are one of them.

Embedding at position p multiplies number f by exp(i w_f p), w the frequencies of a CacheView.
Phases are float64: positions of 10^5 leave float32 two digits.
"""

import torch


def as_complex(vectors: torch.Tensor) -> torch.Tensor:
    """[..., head_dim] float32 as [..., head_dim / 2] complex64."""
    real, imaginary = vectors.chunk(2, dim=-1)
    return torch.complex(real, imaginary)


def as_vectors(numbers: torch.Tensor) -> torch.Tensor:
    """[..., head_dim / 2] complex as [..., head_dim] float32."""
    return torch.cat([numbers.real, numbers.imag], dim=-1).float()


def turn(angles: torch.Tensor) -> torch.Tensor:
    """exp(i angles), complex64; `angles` float64."""
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
