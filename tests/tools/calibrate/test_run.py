"""`calibrate` as a whole: the file beside the model, and what stops it; and the files that ship."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from clients.errors import DataError
from engine.artifacts import load_artifacts
from engine.eviction import POLICIES
from tests.tools.calibrate.subjects import POCKET, pocket, silent
from tools.calibrate.run import CALIBRATIONS, calibrate

SHIPPED = ("pocket-llama", "pocket-qwen")


def _calibrate(policy: str, model: Path | str, **changes: Any) -> tuple[Path, dict[str, str]]:
    settings = {"prompts": None, "traces": 10, "max_tokens": 60, "seed": 3, "report": silent}
    return calibrate(policy, str(model), **{**settings, **changes})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A pocket model without its files."""
    ignored = shutil.ignore_patterns(*(f"{policy}.safetensors" for policy in CALIBRATIONS))
    return Path(shutil.copytree(POCKET, tmp_path / POCKET.name, ignore=ignored))


def test_every_policy_that_needs_a_file_has_its_calibration() -> None:
    assert {name for name, policy in POLICIES.items() if policy.needs_artifact} == set(CALIBRATIONS)


def test_the_file_is_written_beside_the_model(model: Path) -> None:
    path, facts = _calibrate("tri_attention", model)
    assert path == model / "tri_attention.safetensors"
    assert path.stat().st_mode & 0o777 == (model / "config.json").stat().st_mode & 0o777
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == facts
    assert facts["model"] == "pocket-llama"
    assert (facts["traces"], facts["seed"], facts["tokens"]) == ("10", "3", "600")
    artifacts, _ = load_artifacts(str(model), pocket().shape, torch.device("cpu"))
    assert "tri_attention" in artifacts
    assert not list(model.glob("*.partial"))


def test_a_run_can_be_repeated(model: Path) -> None:
    first, again, other = (
        load_file(_calibrate("tri_attention", model, seed=seed)[0])["q_mean"] for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_prompts_may_come_from_a_file(model: Path, tmp_path: Path) -> None:
    elsewhere = model.rename(tmp_path / "mine")
    with pytest.raises(DataError, match="give --prompts"):
        _calibrate("tri_attention", elsewhere)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "hop g;5979;3"}\n')
    assert _calibrate("tri_attention", elsewhere, prompts=prompts)[1]["traces"] == "1"


def test_a_failed_run_leaves_the_old_file(model: Path) -> None:
    (model / "dynts.safetensors").write_text("old")
    with pytest.raises(DataError, match="0 of 10 traces came to an answer"):
        _calibrate("dynts", model)
    assert (model / "dynts.safetensors").read_text() == "old"


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ("r_kv", "policy r_kv needs no file; those that do are tri_attention, dynts"),
        ("nonsense", "no policy 'nonsense' that needs a file; those that do are tri_attention"),
    ],
)
def test_other_policies_have_no_file(policy: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        _calibrate(policy, POCKET)


def test_there_must_be_a_model(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match=r"holds no model: there is no config\.json"):
        _calibrate("tri_attention", tmp_path, prompts=prompts)


def test_there_must_be_room_for_the_file(model: Path) -> None:
    blocked = model / "tri_attention.partial"
    blocked.mkdir()
    (blocked / "in the way").touch()
    with pytest.raises(DataError, match=r"cannot write .*tri_attention\.safetensors"):
        _calibrate("tri_attention", model)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("policy", CALIBRATIONS)
def test_the_files_that_ship_fit_their_models(name: str, policy: str) -> None:
    folder = POCKET.parent / name
    artifacts, missing = load_artifacts(str(folder), pocket().shape, torch.device("cpu"))
    assert policy in artifacts, missing
    path = folder / f"{policy}.safetensors"
    assert path.stat().st_size < 1_500_000
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
    assert (facts["policy"], facts["model"]) == (policy, name)
    assert facts["traces"] == str(CALIBRATIONS[policy].traces)
    assert all(t.isfinite().all() for t in artifacts[policy].values())
    if policy == "dynts":
        assert float(facts["held_out_error"]) < 0.75 * float(facts["constant_error"])


def test_the_statistics_of_two_models_are_their_own() -> None:
    one, two = (
        load_artifacts(str(POCKET.parent / name), pocket().shape, torch.device("cpu"))[0]
        for name in SHIPPED
    )
    assert not torch.allclose(one["tri_attention"]["q_mean"], two["tri_attention"]["q_mean"])
