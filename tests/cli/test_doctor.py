"""`sluice doctor` and `sluice health` from the command line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from tests.clients.fake_sluice import FakeSluice, serving

MODEL = str(Path(__file__).parents[2] / "models" / "pocket-llama")


def doctor(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments], env=environment)


def report(*arguments: str, **environment: str) -> dict[str, Any]:
    result = doctor("--json", *arguments, **environment)
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def test_a_line_for_each_finding_and_a_table_of_budgets() -> None:
    result = doctor("--model", "fake")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert re.match(r"OK    python      3\.", lines[0])
    assert all(re.match(r"(OK|WARN|FAIL) |      ", line) for line in lines[:6])
    rows = [line.split() for line in lines if re.match(r" +(\d+|whole cache) ", line)]
    assert [row[0] for row in rows] == ["512", "1024", "2048", "4096", "8192", "16384", "whole"]
    # 4096 blocks of 16: 128 answers of 512 would fit, 64 may run
    assert rows[0][1:] == ["32", "64", "--max-running"]
    assert rows[-1][2:] == ["2048", "2", "KV", "pool"]


def test_it_reads_the_settings_of_serve(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(f"model = '{MODEL}'\nkv_blocks = 40\n")
    values = report("--config", str(file), SLUICE_SERVE_BLOCK_SIZE="32")
    assert (values["model"], values["kv_blocks"], values["block_size"]) == (MODEL, 40, 32)
    assert report("--config", str(file), "--model", "fake")["model"] == "fake"


def test_json_has_every_finding() -> None:
    values = report("--model", MODEL, SLUICE_SERVE_DEVICE="cpu")
    subjects = [finding["subject"] for finding in values["findings"]]
    assert [s for s in subjects if s != "ports" and s != "packages"] == [
        *("python", "processors", "limits", "device", "kernels", "memory", "KV pool")
    ]
    assert values["budgets"][-1]["budget"] is None
    assert values["kv_bytes_per_token"] > 0


def test_a_failure_is_exit_code_1_and_a_wrong_setting_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = doctor("--model", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "FAIL  model" in result.stdout
    assert doctor("--model", "fake", SLUICE_SERVE_KV_BLOCKS="many").exit_code == 2


def test_health_of_a_server_and_of_none() -> None:
    with serving(FakeSluice()) as target:
        result = CliRunner().invoke(app, ["health", "--server", target])
    assert (result.exit_code, result.stdout) == (0, "SERVING\n")
    result = CliRunner().invoke(app, ["health", "--server", "127.0.0.1:1", "--timeout", "0.3"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("sluice: 127.0.0.1:1 was not SERVING within 0.3 s")
