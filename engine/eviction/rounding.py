"""Makes equals of scores that differ by rounding only.

In the first layer a token's key norm and values are the same wherever the token stands, but for
the rounding of rotary angles and matrix products. Left alone, that noise would decide which of two
occurrences stays, differently from device to device and batch to batch; as equals, the newer does.
"""

import torch

STEPS = 1 << 12  # to which mantissas are rounded: 1 part in 4096 to 8192


def coarse(scores: torch.Tensor) -> torch.Tensor:
    """`scores`, float32 of any shape, rounded to 12 significant bits, halves to even."""
    mantissa, exponent = torch.frexp(scores)
    return torch.ldexp((mantissa * STEPS).round() / STEPS, exponent)
