"""Directories that pretend to be models: no code of theirs runs, only safetensors are loaded."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig
from engine.loader import load_model
from service.text import ModelText

MODEL = Path(__file__).parents[2] / "models" / "pocket-llama"
CPU = torch.device("cpu")
TRAP = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a model that may be spoilt."""
    copy = tmp_path / "model"
    shutil.copytree(MODEL, copy)
    return copy


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_code_that_comes_with_a_model_does_not_run(folder: Path) -> None:
    """CVE-2026-22807, CVE-2026-27893, CVE-2025-66448: auto_map names classes to run."""
    for name in ("configuration_trap", "modeling_trap", "tokenization_trap"):
        (folder / f"{name}.py").write_text(TRAP)
    change(
        folder / "config.json",
        auto_map={
            "AutoConfig": "configuration_trap.Trap",
            "AutoModelForCausalLM": "modeling_trap.Trap",
        },
    )
    change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization_trap.Trap", "tokenization_trap.Trap"]},
    )
    load_model(EngineConfig(model=str(folder)), CPU)
    ModelText(str(folder))
    assert not list(folder.glob("ran"))


def test_a_model_that_is_only_code_is_an_error(folder: Path) -> None:
    (folder / "modeling_trap.py").write_text(TRAP)
    auto_map = {"AutoConfig": "modeling_trap.Trap", "AutoModelForCausalLM": "modeling_trap.Trap"}
    change(folder / "config.json", model_type="trap", auto_map=auto_map)
    with pytest.raises((ValueError, OSError)):
        load_model(EngineConfig(model=str(folder)), CPU)
    assert not list(folder.glob("ran"))


def test_pickled_weights_are_not_read(folder: Path) -> None:
    """CVE-2025-32434, CVE-2025-24357: weights as pickle."""
    (folder / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(folder / "ran"), "w")  # type: ignore[return-value]

    torch.save({"x": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_model(EngineConfig(model=str(folder)), CPU)
    assert not list(folder.glob("ran"))


@pytest.mark.parametrize("header", [0, 7, 2**31, 2**63, 2**64 - 1])
def test_a_header_that_lies_about_its_size_is_an_error(folder: Path, header: int) -> None:
    """CVE-2026-53923: sizes in a file's header were believed."""
    weights = folder / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", header) + weights.read_bytes()[8:])
    with pytest.raises(Exception, match=r"(?i)header|safetensor|json|expected"):
        load_model(EngineConfig(model=str(folder)), CPU)


def test_tensors_that_do_not_fit_the_file_or_the_model_are_an_error(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    with pytest.raises(Exception, match=r"(?i)incomplete|metadata|safetensor"):
        load_model(EngineConfig(model=str(folder)), CPU)
    weights.write_bytes(whole)
    size = json.loads((folder / "config.json").read_text())["hidden_size"]
    change(folder / "config.json", intermediate_size=size + 1)
    with pytest.raises(RuntimeError, match=r"(?i)mismatch"):
        load_model(EngineConfig(model=str(folder)), CPU)
