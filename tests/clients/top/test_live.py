"""The loop, against a scripted server that comes and goes."""

import asyncio
import io
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress

import pytest
from rich.console import Console

from clients.errors import NotServing
from clients.top.live import view, view_once
from tests.clients.fake_sluice import FakeSluice, serving
from tests.clients.top.builders import look

INTERVAL = 0.05


def watched(script: Callable[[io.StringIO], Awaitable[None]], target: str, **console: bool) -> str:
    """What is shown while `script` runs; it reads along."""
    out = io.StringIO()
    shown = Console(file=out, width=80, height=24, **console)

    async def scenario() -> None:
        task = asyncio.create_task(view([target], shown, INTERVAL))
        try:
            await script(out)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(scenario())
    return out.getvalue()


async def until(out: io.StringIO, pattern: str, begin: int = 0) -> int:
    """Waits until something is shown after `begin`; where. The test's own limit ends the wait."""
    while (found := re.compile(pattern).search(out.getvalue(), begin)) is None:
        await asyncio.sleep(0.02)
    return found.end()


def test_a_server_may_come_go_and_come_back() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    fake = FakeSluice(loads=[look().load])

    async def script(out: io.StringIO) -> None:
        with ExitStack() as up:
            at = await until(out, "gone since")
            up.enter_context(serving(fake, port=port))
            at = await until(out, "12 of 8, waiting 3", at)
        at = await until(out, r"gone since .*UNAVAILABLE", at)
        with serving(fake, port=port):
            await until(out, r"kernels +0 engine restarts\s*\n\s*\ntokens/s", at)

    watched(script, f"127.0.0.1:{port}")


def test_a_terminal_gets_its_screen_back() -> None:
    async def script(out: io.StringIO) -> None:
        await until(out, "12 of 8")

    with serving(FakeSluice(loads=[look().load])) as target:
        shown = watched(script, target, force_terminal=True)
    assert shown.startswith("\x1b[?1049h")
    assert {"\x1b[?25h", "\x1b[?1049l"} <= set(re.findall(r"\x1b\[\?\d+[hl]", shown[-40:]))
    assert "\x1b[2J" not in shown[shown.index("12 of 8") :], "a screen that is cleared flickers"


def test_one_frame_has_rates() -> None:
    out = io.StringIO()
    fake = FakeSluice(loads=[look().load, look(generation_tokens_total=10_000).load])
    with serving(fake) as target:
        asyncio.run(view_once([target], Console(file=out, width=80), INTERVAL))
    assert out.getvalue().count("tokens/s") == 1
    assert re.search(r"tokens/s +[\d,]+k? ", out.getvalue())
    assert "evicted   r_kv 0/s, window 0/s" in out.getvalue()


def test_one_frame_of_nobody_is_an_error() -> None:
    with pytest.raises(NotServing, match=r"127\.0\.0\.1:1: UNAVAILABLE"):
        asyncio.run(view_once(["127.0.0.1:1"], Console(file=io.StringIO()), INTERVAL))


def test_one_of_several_is_enough_for_a_frame() -> None:
    out = io.StringIO()
    with serving(FakeSluice(loads=[look().load])) as target:
        servers = [target, "127.0.0.1:1"]
        asyncio.run(view_once(servers, Console(file=out, width=80), INTERVAL))
    assert re.search(r"127\.0\.0\.1:1 +gone since", out.getvalue())
