"""Starts `sluice serve` as a process of its own and stops it again."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from clients import access
from clients.async_client import AsyncClient
from clients.errors import LocalServerError, NotServing
from clients.retry import NEVER

SERVE = (sys.executable, "-m", "cli.main", "serve")
ANNOUNCEMENT = re.compile(
    r"^sluice: serving (?P<model>.+?) on (?P<target>[^\s,/]+:\d+)(?:,|$)", re.MULTILINE
)
START_SECONDS = 600.0  # the first start compiles its kernels: 90 s on two idle cores
STOP_SECONDS = 15.0
POLL_SECONDS = 0.05
LOG_LINES_SHOWN = 20


@dataclass(frozen=True)
class LocalServer:
    """A running server."""

    model: str
    target: str  # "host:port"
    log: Path


@asynccontextmanager
async def local_servers(
    models: Sequence[str],
    logs: Path,
    options: Sequence[str] = (),
    *,
    command: Sequence[str] = SERVE,
    start_seconds: float = START_SECONDS,
) -> AsyncIterator[list[LocalServer]]:
    """Serves every model on a free port of this machine while the context is open.

    They start, and stop, side by side. What a server prints goes to a file in `logs`. At the end
    each is asked to stop, and killed where it does not within 15 seconds.

    Raises:
        LocalServerError: one did not come up within `start_seconds`; shows the end of its log. Or
            the environment asks clients for TLS, which these servers do not speak.
    """
    if access.channel_credentials() is not None:
        raise LocalServerError(
            "servers that are started here speak plain text, and TLS is asked for; unset "
            f"{access.TLS_CA}, {access.TLS_CERT} and {access.TLS_KEY}"
        )
    logs.mkdir(parents=True, exist_ok=True)
    running: list[tuple[subprocess.Popen[bytes], Path]] = []
    deadline = time.monotonic() + start_seconds
    try:
        for model in models:
            log = logs / f"{Path(model).name}.log"
            full = [*command, "--model", model, "--listen", "127.0.0.1:0", *options]
            running.append((_launch(full, log), log))
        yield [await _up(process, log, deadline) for process, log in running]
    finally:
        await asyncio.gather(*(_stop(process) for process, _ in running))


def _launch(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as sink:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it in order
        )


async def _up(process: subprocess.Popen[bytes], log: Path, deadline: float) -> LocalServer:
    while time.monotonic() < deadline:
        if found := ANNOUNCEMENT.search(_read(log)):
            server = LocalServer(found["model"], found["target"], log)
            if await _serves(server.target):
                return server
        if process.poll() is not None:
            raise LocalServerError(_report(f"ended with exit code {process.returncode}", log))
        await asyncio.sleep(POLL_SECONDS)
    raise LocalServerError(_report("did not come up in time", log))


async def _serves(target: str) -> bool:
    async with AsyncClient(target, retry=NEVER) as client:
        try:
            await client.wait_until_serving(timeout=1.0)
        except NotServing:
            return False
    return True


async def _stop(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    if process.poll() is None:
        process.terminate()
    while process.poll() is None and time.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # its engine process too
        process.wait()


def _report(reason: str, log: Path) -> str:
    lines = _read(log).splitlines()[-LOG_LINES_SHOWN:]
    shown = "\n".join(f"  {line}" for line in lines) or "  (empty)"
    return f"the local server {reason}; the end of its log {log}:\n{shown}"


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
