"""What rms_norm means, in torch."""

import torch
from torch import Tensor


def rms_norm(hidden: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> Tensor:
    """See `kernels.rms_norm.rms_norm`; takes any number of dimensions before the width."""
    if residual is not None:
        hidden = residual.add_(hidden)
    wide = hidden.float()
    normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normal.to(hidden.dtype)
