"""The families of GPUs that want different tile sizes."""

from enum import StrEnum
from functools import cache

import torch


class Family(StrEnum):
    """Named after the first chip with what matters here."""

    AMPERE = "ampere"  # matrix products from registers, about 100 KiB of shared memory to count on
    HOPPER = "hopper"  # matrix products from shared memory, 227 KiB of it
    CDNA = "cdna"  # AMD: 64 lanes per warp, 64 KiB of shared memory


@cache
def family() -> Family:
    """The family of the current GPU; Hopper where there is none, as under the interpreter."""
    if torch.version.hip is not None:
        return Family.CDNA
    if not torch.cuda.is_available():
        return Family.HOPPER
    major, _ = torch.cuda.get_device_capability()
    return Family.HOPPER if major in (9, 10) else Family.AMPERE
