"""`sluice load`: what it prints where, and how it ends."""

import json
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.cli.command import INTERRUPTIBLE
from tests.clients.fake_sluice import Failure, serving
from tests.clients.load.running import fake

ROOT = Path(__file__).parents[2]
RUNNER = CliRunner()


def load(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    result = RUNNER.invoke(app, ["load", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_closed_loop(tmp_path: Path) -> None:
    out = tmp_path / "run"
    server = fake()
    with serving(server) as target:
        code, text, err = load(
            "--server", target, "--concurrency", "2", "--requests", "5", "--warm-up-requests", "3",
            "--prompt-tokens", "4:6", "--output-tokens", "7", "--mix", "budget=full", "--mix",
            "budget=20,policy=window", "--slo", "ttft:60000", "--percentiles", "50,99.9",
            "--stream-interval", "2", "--seed", "3", "--out", str(out),
        )  # fmt: skip
    assert code == 0, err
    assert re.search(r"5 scheduled, 5 ok, 0 failed, after 3 of warm-up", text)
    assert "p99.9" in text
    assert f"report: {out / 'load.html'}" in err
    numbers = json.loads((out / "load.json").read_text())
    assert (numbers["completed"], numbers["max_concurrency"], numbers["seed"]) == (5, 2, 3)
    assert "p99.9_ttft_ms" in numbers
    assert len((out / "requests.jsonl").read_text().splitlines()) == len(server.requests) == 8
    assert {request.stream_interval for request in server.requests} == {2}


def test_an_open_loop_of_real_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "mine.jsonl"
    data.write_text('{"prompt": "one", "answer": 1}\n{"prompt": "two", "answer": 2}\n')
    server = fake()
    with serving(server) as target:
        code, text, _ = load(
            "--server", target, "--rate", "50", "--arrivals", "constant", "--duration", "0.06",
            "--datasets", str(data), "--max-concurrency", "1",
        )  # fmt: skip
    assert code == 0
    assert [request.text for request in server.requests] == ["one", "two", "one"]
    assert not server.requests[0].stopping.ignore_eos
    assert "TTFT from the sent time" in text
    [directory] = (tmp_path / "runs").iterdir()
    assert directory.name.startswith("load-")


def test_a_trace(tmp_path: Path) -> None:
    calls = tmp_path / "calls.jsonl"
    calls.write_text('{"timestamp": 3, "input_length": 5}\n{"timestamp": 3.02}\n')
    server = fake()
    with serving(server) as target:
        code, _, err = load("--server", target, "--trace", str(calls), "--out", str(tmp_path / "o"))
    assert code == 0, err
    assert [len(request.token_ids.ids) for request in server.requests] == [5, 256]


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--rate 5",
        "--requests 5",
        "--rate 5 --concurrency 5 --requests 5",
        "--rate -1 --requests 5",
        "--rate 5 --arrivals constant --burstiness 2 --requests 5",
        "--rate 5 --arrivals bursts --requests 5",
        "--concurrency 5 --requests 5 --mix budget=0",
        "--concurrency 5 --requests 5 --slo itl:5",
        "--concurrency 5 --requests 5 --prompt-tokens 0",
        "--concurrency 5 --requests 5 --percentiles 100",
        "--concurrency 5 --requests 5 --percentiles 9,9",
        "--trace missing.jsonl",
        "--concurrency 5 --requests 5 --datasets missing.jsonl",
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = load(*arguments.split())
    assert code == 2
    assert out == ""
    assert err
    assert not (tmp_path / "runs").exists()


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    arguments = ["--concurrency", "2", "--requests", "5", "--out", str(tmp_path / "run")]
    code, out, err = load("--server", "127.0.0.1:1", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("sluice: UNAVAILABLE")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_directory_is_used_once(tmp_path: Path) -> None:
    (tmp_path / "load.json").touch()
    code, _, err = load("--concurrency", "2", "--requests", "5", "--out", str(tmp_path))
    assert code == 2
    assert "holds a load test; choose another --out" in err


def test_some_failures_are_a_result_and_only_failures_are_not(tmp_path: Path) -> None:
    refused = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", retry_after=0.01)
    server = fake(failures=[refused])
    arguments = ["--concurrency", "1", "--requests", "2"]
    with serving(server) as target:
        code, out, _ = load("--server", target, *arguments, "--out", str(tmp_path / "some"))
        assert code == 0
        assert "1 request failed (1 RESOURCE_EXHAUSTED)" in out
        server.failures = [refused] * 2
        code, out, err = load("--server", target, *arguments, "--out", str(tmp_path / "all"))
    assert code == 1
    assert "2 requests failed (2 RESOURCE_EXHAUSTED)" in out
    assert "no request succeeded" in err
    assert (tmp_path / "all" / "requests.jsonl").exists()


def test_ctrl_c_cancels_everything_and_writes_what_there_is(tmp_path: Path) -> None:
    server = fake(hold=threading.Event())
    out = tmp_path / "run"
    with serving(server) as target:
        process = subprocess.Popen(
            [*INTERRUPTIBLE, "load", "--server", target, "--concurrency", "3",
             "--duration", "600", "--out", str(out)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while len(server.requests) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        text, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert server.hung_up.wait(30)
    assert "Interrupted" in text
    assert "sluice: interrupted; the files have what was measured until then" in err
    numbers = json.loads((out / "load.json").read_text())
    assert (numbers["interrupted"], numbers["cut"]) == (True, 3)
    assert (out / "load.html").exists()
