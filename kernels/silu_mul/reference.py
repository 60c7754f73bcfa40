"""What silu_mul means, in torch."""

from torch import Tensor
from torch.nn.functional import silu


def silu_mul(gate_up: Tensor) -> Tensor:
    """See `kernels.silu_mul.silu_mul`."""
    gate, up = gate_up.chunk(2, dim=1)
    return silu(gate) * up
