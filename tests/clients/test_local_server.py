"""Starting and stopping a server process; the process here is a few lines of Python."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from clients.errors import LocalServerError
from clients.local_server import ANNOUNCEMENT, local_servers

ROOT = Path(__file__).parents[2]
SERVES = """
import signal, sys, threading
from tests.clients.fake_sluice import FakeSluice, serving
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
print("loading", sys.argv[1:], file=sys.stderr)
with serving(FakeSluice()) as target:
    print(f"sluice: serving my model on {target}, metrics on http://127.0.0.1:1/metrics")
    stop.wait()
print("stopped")
"""
STUBBORN = SERVES.replace("lambda *_: stop.set()", "signal.SIG_IGN")


def command(script: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"]


def alive(log: Path) -> bool:
    """Whether the process that writes to `log` still runs."""
    for link in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            if os.readlink(link) == str(log):
                return True
        except OSError:
            continue
    return False


def test_it_comes_up_and_is_stopped(tmp_path: Path) -> None:
    logs = tmp_path / "logs"

    async def scenario() -> None:
        options = ["--kv-blocks", "9"]
        async with local_servers(["a/x", "y"], logs, options, command=command(SERVES)) as servers:
            assert [server.log.name for server in servers] == ["x.log", "y.log"]
            assert len({server.target for server in servers}) == 2
            for server in servers:
                assert server.model == "my model"
                assert server.target.startswith("127.0.0.1:")
                assert alive(server.log)

    asyncio.run(scenario())
    text = (logs / "x.log").read_text()
    assert "'--model', 'a/x', '--listen', '127.0.0.1:0', '--kv-blocks', '9'" in text
    assert text.rstrip().endswith("stopped")
    assert not alive(logs / "x.log")
    assert not alive(logs / "y.log")


def test_it_is_stopped_where_the_body_fails(tmp_path: Path) -> None:
    log = tmp_path / "x.log"

    async def scenario() -> None:
        async with local_servers(["x"], tmp_path, command=command(SERVES)):
            raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        asyncio.run(scenario())
    assert not alive(log)


def test_one_that_will_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.local_server.STOP_SECONDS", 0.3)
    log = tmp_path / "x.log"

    async def scenario() -> None:
        async with local_servers(["x"], tmp_path, command=command(STUBBORN)):
            pass

    asyncio.run(scenario())
    assert not alive(log)


def test_one_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        script = "import sys; sys.exit('no such model: x')"
        async with local_servers(["x"], tmp_path, command=command(script)):
            pass

    with pytest.raises(LocalServerError, match=r"ended with exit code 1(?s:.)*no such model: x"):
        asyncio.run(scenario())


def test_one_that_never_comes_up_is_given_up(tmp_path: Path) -> None:
    log = tmp_path / "x.log"

    async def scenario() -> None:
        script = "import time; print('still loading', flush=True); time.sleep(60)"
        async with local_servers(["x"], tmp_path, command=command(script), start_seconds=2):
            pass

    with pytest.raises(LocalServerError, match=r"did not come up in time(?s:.)*still loading"):
        asyncio.run(scenario())
    assert not alive(log)


@pytest.mark.parametrize(
    ("line", "model", "target"),
    [
        ("sluice: serving pocket-llama on 127.0.0.1:7700", "pocket-llama", "127.0.0.1:7700"),
        ("sluice: serving a on b on [::1]:80, metrics on http://h:9/m", "a on b", "[::1]:80"),
    ],
)
def test_the_announcement(line: str, model: str, target: str) -> None:
    found = ANNOUNCEMENT.search(f"noise\n{line}\nmore\n")
    assert found is not None
    assert (found["model"], found["target"]) == (model, target)


def test_tls_in_the_environment_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the server would be asked in TLS until the time is over."""
    certificate = tmp_path / "ca.pem"
    certificate.write_text("its content is looked at in the first handshake")
    monkeypatch.setenv("SLUICE_TLS_CA", str(certificate))

    async def scenario() -> None:
        async with local_servers(["x"], tmp_path, command=command(SERVES)):
            raise AssertionError("it came up")

    with pytest.raises(LocalServerError, match="unset SLUICE_TLS_CA"):
        asyncio.run(scenario())
