"""Files that calibrated and learned policies need: `<policy>.safetensors` beside the model.

`sluice calibrate` makes them. A file that is missing or made for another model does not stop the
engine: the policy is listed with the reason, and requests that name it are refused.
"""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from engine.eviction import POLICIES
from engine.kv_pool import KvShape

Artifact = dict[str, torch.Tensor]
HALF = (torch.float16, torch.bfloat16)


def artifact_directory(model: str) -> Path:
    """Where the files of `model` are: its own directory, or one in the cache for a hub id."""
    if Path(model).is_dir():
        return Path(model)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sluice" / model.replace("/", "--")


def load_artifacts(
    model: str, shape: KvShape, device: torch.device
) -> tuple[dict[str, Artifact], dict[str, str]]:
    """The files that are there, and why a policy goes without.

    Returns:
        tensors by policy, on `device`, half-precision ones in the model's type; and for each policy
        whose file cannot be used, the reason with the command that makes it.
    """
    artifacts: dict[str, Artifact] = {}
    missing: dict[str, str] = {}
    for name, policy in POLICIES.items():
        if not policy.needs_artifact:
            continue
        path = artifact_directory(model) / f"{name}.safetensors"
        try:
            tensors = load_file(path)
            complaint = policy.artifact_complaint(tensors, shape)
        except FileNotFoundError:
            complaint = "there is none"
        except OSError as error:
            complaint = error.strerror or "it cannot be read"
        except SafetensorError as error:
            complaint = str(error)
        if complaint:
            shown = Path(model).name if Path(model).is_absolute() else model  # callers read this
            command = f"sluice calibrate --policy {name} --model {shown}"
            missing[name] = (
                f"it needs {path.name} beside the model, but {complaint}; make it: {command}"
            )
        else:
            artifacts[name] = {
                key: tensor.to(device, shape.dtype if tensor.dtype in HALF else tensor.dtype)
                for key, tensor in tensors.items()
            }
    return artifacts, missing
