"""`sluice calibrate`, without the terminal: prompts, traces, what a policy needs, its file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from safetensors.torch import save

from clients.errors import DataError
from engine.artifacts import artifact_directory
from engine.eviction import POLICIES
from tools.calibrate.dynts import calibrate_dynts
from tools.calibrate.regret import calibrate_regret
from tools.calibrate.subject import Subject, load_subject
from tools.calibrate.traces import Report, Trace, generate, prompts_for
from tools.calibrate.tri_attention import calibrate_tri_attention

Measure = Callable[
    [Subject, Sequence[Trace], int, Report], tuple[dict[str, torch.Tensor], dict[str, str]]
]


@dataclass(frozen=True)
class Calibration:
    """How a policy's file is made."""

    measure: Measure  # (model, traces, seed, report) -> tensors, facts for the metadata
    traces: int  # by default


CALIBRATIONS = {
    "tri_attention": Calibration(calibrate_tri_attention, traces=160),
    "dynts": Calibration(calibrate_dynts, traces=720),
    "regret": Calibration(calibrate_regret, traces=480),
}


def calibrate(
    policy: str,
    model: str,
    *,
    prompts: Path | None,
    traces: int | None,
    max_tokens: int,
    seed: int,
    report: Report,
) -> tuple[Path, dict[str, str]]:
    """Makes the file of one policy for one model, beside the model.

    Args:
        policy: one of CALIBRATIONS.
        model: a local directory, or a hub id, whose file goes to the cache.
        prompts: JSONL with a field `prompt`; None: a pocket model's own tasks.
        traces: how many to generate; None: the policy's default.
        max_tokens: most new tokens of a trace.
        seed: of prompts, draws and training.
        report: told of progress.

    Returns:
        the file and its metadata.

    Raises:
        DataError: what was asked for cannot be done; says why and what to do.
    """
    check_policy(policy)
    calibration = CALIBRATIONS[policy]
    asked = prompts_for(model, prompts, traces or calibration.traces, seed)
    subject = load_subject(model)
    path = artifact_directory(model) / f"{policy}.safetensors"
    _check_writable(path)
    drawn = generate(subject, asked, max_tokens, seed, report)
    tensors, facts = calibration.measure(subject, drawn, seed, report)
    facts = {
        "policy": policy,
        "model": Path(model).name,
        "traces": str(len(drawn)),
        "seed": str(seed),
        "version": metadata.version("sluice"),
        **facts,
    }
    complaint = POLICIES[policy].artifact_complaint(tensors, subject.shape)
    assert not complaint, complaint
    _save(path, tensors, facts)
    return path, facts


def check_policy(policy: str) -> None:
    """Raises DataError unless the policy is one that needs a file."""
    if policy in CALIBRATIONS:
        return
    known = f"those that do are {', '.join(CALIBRATIONS)}"
    if policy in POLICIES:
        raise DataError(f"policy {policy} needs no file; {known}")
    raise DataError(f"there is no policy {policy!r} that needs a file; {known}")


def _check_writable(path: Path) -> None:
    """Before the work, not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(path)
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error


def _save(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, str]) -> None:
    """The old file stays until the new one is whole."""
    whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    try:
        _partial(path).write_bytes(save(whole, metadata=facts))  # save_file's is its owner's only
        _partial(path).replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error


def _partial(path: Path) -> Path:
    return path.with_suffix(".partial")
