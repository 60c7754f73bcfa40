"""`sluice calibrate`: progress and advice on stderr, and one line for what stops it."""

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

POCKET = Path(__file__).parents[2] / "models" / "pocket-llama"


def calibrate(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    result = CliRunner().invoke(app, ["calibrate", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_it_says_what_it_wrote_and_how_to_use_it(tmp_path: Path) -> None:
    model = shutil.copytree(POCKET, tmp_path / POCKET.name)
    (model / "tri_attention.safetensors").unlink()
    code, out, err = calibrate(
        "--policy", "tri_attention", "--model", str(model), "--traces", "3", "--max-tokens", "20"
    )
    assert (code, out) == (0, "")
    assert (model / "tri_attention.safetensors").exists()
    assert "generating traces" in err
    assert "traces 3, seed 0" in err
    last = err.splitlines()[-1]
    assert re.match(r"wrote .*tri_attention\.safetensors; start the server again", last)
    assert last.endswith("--policy tri_attention")


@pytest.mark.parametrize("policy", ["window", "nonsense"])
def test_a_policy_without_a_file_is_wrong_usage(policy: str) -> None:
    code, out, err = calibrate("--policy", policy, "--model", str(POCKET))
    assert (code, out) == (2, "")
    assert policy in err
    assert "those that do are tri_attention, dynts" in err
    assert err.count("\n") == 1


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pocket-llama").mkdir()
    code, _, err = calibrate("--policy", "dynts", "--model", str(tmp_path / "pocket-llama"))
    assert code == 1
    assert "holds no model" in err
    assert err.count("\n") == 1


def test_another_model_needs_prompts() -> None:
    code, _, err = calibrate("--policy", "dynts", "--model", "owner/big")
    assert code == 1
    assert "--prompts FILE.jsonl" in err
