"""Which device a setting names."""

import torch


def choose_device(name: str) -> torch.device:
    """The device that `name` means; "auto" is the GPU where there is one.

    Raises:
        ValueError: no such device, or torch sees no GPU.
    """
    present = torch.cuda.is_available()
    try:
        device = torch.device(name if name != "auto" else "cuda" if present else "cpu")
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}; allowed are auto, cpu, cuda, cuda:1, ...") from error
    if device.type == "cuda" and not present:
        raise ValueError(f"device is {name!r} and torch sees no GPU; use cpu, or mend its driver")
    return device
