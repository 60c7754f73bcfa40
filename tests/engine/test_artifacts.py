"""Files of calibrated and learned policies: found, checked, and asked for where they lack."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.artifacts import artifact_directory, load_artifacts
from engine.eviction import POLICIES
from engine.intake import build_request
from engine.kv_pool import KvShape
from engine.messages import PolicyInfo, Submit
from scheduler.budget import BudgetRequest
from scheduler.errors import PolicyUnavailable
from scheduler.request import Sampling
from tests.engine.eviction.artifacts import random_artifacts
from tests.engine.harness import make_runner

SHAPE = KvShape(3, 4, 2, 16, hidden_size=64, dtype=torch.float32)
CPU = torch.device("cpu")
NEEDY = [name for name, policy in POLICIES.items() if policy.needs_artifact]


def _write(directory: Path, shape: KvShape = SHAPE) -> None:
    for name, tensors in random_artifacts(shape).items():
        save_file(tensors, directory / f"{name}.safetensors")


def test_files_that_fit_are_loaded(tmp_path: Path) -> None:
    _write(tmp_path)
    artifacts, missing = load_artifacts(str(tmp_path), SHAPE, CPU)
    assert list(artifacts) == NEEDY
    assert not missing
    for name, tensors in random_artifacts(SHAPE).items():
        assert artifacts[name].keys() == tensors.keys()
        assert all(torch.equal(artifacts[name][key], tensors[key]) for key in tensors)


def test_half_precision_takes_the_models_type(tmp_path: Path) -> None:
    tensors = random_artifacts(SHAPE)["dynts"]
    halves = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    save_file(halves, tmp_path / "dynts.safetensors")
    artifacts, _ = load_artifacts(str(tmp_path), SHAPE, CPU)
    assert artifacts["dynts"]["first"].dtype == torch.float32
    assert artifacts["dynts"]["end_ids"].dtype == torch.int64


@pytest.mark.parametrize("name", NEEDY)
def test_a_missing_file_is_named_with_the_command_that_makes_it(name: str, tmp_path: Path) -> None:
    artifacts, missing = load_artifacts(str(tmp_path), SHAPE, CPU)
    assert not artifacts
    assert f"{name}.safetensors" in missing[name]
    assert missing[name].endswith(f"sluice calibrate --policy {name} --model {tmp_path.name}")


@pytest.mark.parametrize("name", NEEDY)
def test_a_file_of_another_model_is_not_used(name: str, tmp_path: Path) -> None:
    _write(tmp_path, KvShape(5, 8, 2, 32, hidden_size=96, dtype=torch.float32))
    artifacts, missing = load_artifacts(str(tmp_path), SHAPE, CPU)
    assert not artifacts
    assert "where this model needs" in missing[name]
    assert "sluice calibrate" in missing[name]


@pytest.mark.parametrize("name", NEEDY)
def test_a_broken_file_is_not_used(name: str, tmp_path: Path) -> None:
    _write(tmp_path)
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    artifacts, missing = load_artifacts(str(tmp_path), SHAPE, CPU)
    assert name not in artifacts
    assert list(missing) == [name]
    path.write_text("no tensors at all")
    assert name in load_artifacts(str(tmp_path), SHAPE, CPU)[1]


def test_files_of_a_hub_model_are_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert artifact_directory("owner/name") == Path("/somewhere/sluice/owner--name")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert artifact_directory("owner/name") == Path.home() / ".cache/sluice/owner--name"


def _offered(files: Path) -> dict[str, PolicyInfo]:
    policies = make_runner("llama", files=files).describe().policies
    return {policy.name: policy for policy in policies}


def test_an_engine_without_files_lists_what_it_cannot_serve(tmp_path: Path) -> None:
    policies = _offered(tmp_path)
    for name in NEEDY:
        assert (
            f"sluice calibrate --policy {name} --model {tmp_path.name}"
            in policies[name].unavailable
        )
    assert not policies["window"].unavailable
    _write(tmp_path)
    assert not any(_offered(tmp_path)[name].unavailable for name in NEEDY)


@pytest.mark.parametrize("name", NEEDY)
def test_a_request_that_names_it_is_refused(name: str, tmp_path: Path) -> None:
    model = make_runner("llama", files=tmp_path).describe()
    budget = BudgetRequest(max_tokens=80, policy=name)
    submit = Submit(1, [5, 6, 7], Sampling(), max_new_tokens=100, budget=budget)
    with pytest.raises(PolicyUnavailable, match=f"sluice calibrate --policy {name}"):
        build_request(submit, model)
