"""`sluice top` from the command line."""

import signal
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from cli.main import app
from tests.cli.command import INTERRUPTIBLE
from tests.clients.fake_sluice import FakeSluice, serving
from tests.clients.top.builders import look

ROOT = Path(__file__).parents[2]


def test_once_prints_a_frame() -> None:
    with serving(FakeSluice(loads=[look().load])) as target:
        arguments = ["top", "--once", "--interval", "0.1", "--server", target]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "KV pool" in result.stdout


def test_once_without_a_server_is_one_line_and_exit_code_1() -> None:
    result = CliRunner().invoke(app, ["top", "--once", "--server", "127.0.0.1:1"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("sluice: no answer from 127.0.0.1:1: UNAVAILABLE")
    assert result.stderr.count("\n") == 1


def test_an_interval_must_be_a_tenth_of_a_second() -> None:
    assert CliRunner().invoke(app, ["top", "--interval", "0"]).exit_code == 2


def test_ctrl_c_is_how_it_ends() -> None:
    with serving(FakeSluice(loads=[look().load])) as target:
        command = [*INTERRUPTIBLE, "top", "--server", target, "--interval", "0.1"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True)
        assert process.stdout is not None
        while "KV pool" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
