"""benchmarks.end_to_end on a tiny model: every cell runs, and what goes wrong is reported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import typer

from benchmarks import end_to_end, steady, timing
from benchmarks.peers import continuous_batching
from benchmarks.results import ROOT
from benchmarks.shapes import LLAMA_8B, QWEN_7B, TINY, Shape, make_model, step_weight_bytes
from tests.conftest import GPU


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "COPIED", {"cpu": 1 << 16})


def run(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    """What the last line of a run on the tiny model says."""
    end_to_end.main(shape="tiny", device="cpu", cell_seconds=1.0, **options)
    said: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return said


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "end_to_end.jsonl").read_bytes().splitlines()
    return {row["cell"]: row for row in map(msgspec.json.decode, lines)}


def test_every_cell_is_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = run(capsys, stored=tmp_path)
    cells = said["shapes"]["tiny"]
    assert list(cells) == ["64", "whole", "96", "transformers"]
    assert all(cell["tokens_per_second"] > 0 for cell in cells.values())
    rows = rows_of(tmp_path)
    pool = TINY.kv_blocks * steady.BLOCK if TINY.kv_blocks else 0
    for budget in (64, 96):
        row = rows[str(budget)]
        assert row["policy"] == "r_kv"
        assert budget - 16 <= row["held"] <= budget
        assert row["running"] == pool // budget
        assert row["rounds_per_step"] == pytest.approx(row["running"] / 16, rel=0.5)
    whole = rows["whole"]
    assert whole["policy"] is None
    assert whole["rounds_per_step"] == 0
    assert TINY.trace / 2 <= whole["held"]
    assert whole["held"] * whole["running"] <= pool
    assert rows["transformers"]["running"] == whole["running"]
    kv = 2 * 2 * 2 * 16 * 4  # keys and values, two layers, two heads of 16, float32
    for row in (rows["64"], whole):
        cache = row["step_bytes"] - weights(TINY)
        assert cache == pytest.approx(row["running"] * row["held"] * kv, rel=0.01)


def weights(shape: Shape) -> int:
    return step_weight_bytes(make_model(shape, torch.device("meta"), "sdpa"))


def test_a_cell_that_fails_is_reported_and_the_rest_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(typer.Exit) as ended:
        run(capsys, only="16,96", stored=tmp_path)
    assert ended.value.exit_code == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["failed"].keys() == {"tiny/16"}
    assert "max_tokens" in said["failed"]["tiny/16"]
    assert said["shapes"]["tiny"]["96"]["status"] == "measured"
    assert rows_of(tmp_path)["16"]["status"] == "failed"


def test_a_shape_that_cannot_be_made_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        end_to_end.main(shape="huge", device="cpu")
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["failed"] == {"huge/model": "KeyError: 'huge'"}


def test_no_cell_starts_without_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = run(capsys, seconds=0.0, stored=tmp_path)
    assert {cell["status"] for cell in said["shapes"]["tiny"].values()} == {"skipped"}
    assert said["failed"] == {}


def test_requests_that_do_not_decode_in_time_are_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(continuous_batching, "PATIENCE", 0.0)
    model = make_model(TINY, torch.device("cpu"), "sdpa")
    with pytest.raises(RuntimeError, match="0 of 2 requests decode after 0 s"):
        continuous_batching.decode(model, [[1, 2, 3], [4, 5, 6]], kv_tokens=1024, seconds=1.0)


@pytest.mark.parametrize(
    ("shape", "parameters"), [(LLAMA_8B, 8_030_261_248), (QWEN_7B, 7_615_616_512)]
)
def test_the_shapes_are_those_of_the_published_models(shape: Shape, parameters: int) -> None:
    model = make_model(shape, torch.device("meta"), "sdpa")
    assert sum(p.numel() for p in model.parameters()) == parameters
    rows = shape.sizes["vocab_size"] * shape.sizes["hidden_size"]
    assert step_weight_bytes(model) == 2 * (parameters - rows)


def test_rounds_do_not_coincide() -> None:
    work = steady.Work(LLAMA_8B, 20_480, 2500, "r_kv", 1.0)
    lengths = [len(request.prompt) for request in steady.requests(work)]
    assert len(lengths) == work.running == 20_480 // 157
    assert max(lengths.count(length) for length in set(lengths)) <= 2
    assert max(lengths) - min(lengths) <= 128


def test_cells_are_chosen_by_name_or_all() -> None:
    assert end_to_end.cells(LLAMA_8B, "") == [
        *("2500", "whole", "5000", "4000", "3000", "3500", "4500", "transformers")
    ]
    assert end_to_end.cells(LLAMA_8B, "whole,2500") == ["whole", "2500"]


@pytest.mark.skipif(GPU, reason="where there is a GPU it would start for minutes")
def test_the_script_says_what_it_lacks() -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    ended = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "torch sees no GPU" in ended.stderr


def test_what_the_script_runs_imports_without_grpc() -> None:
    """The machine with the GPU may lack it, and what the front process needs."""
    names = ("grpc", "google", "prometheus_client", "matplotlib", "math_verify")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({names}));"
        "import benchmarks.kernels, benchmarks.end_to_end, tests.engine.harness"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
