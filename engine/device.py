"""Which device a setting names, and whether one can still be used."""

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


def check_usable(device: torch.device) -> None:
    """Returns if the device still computes after an error; waits for what is under way on it.

    Raises:
        RuntimeError: it does not. After an illegal access, CUDA refuses a process all further work.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
