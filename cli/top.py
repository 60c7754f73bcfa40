"""`sluice top`: a live view of one server, or of several."""

import asyncio
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console

from cli.failures import one_line_errors
from cli.options import DEFAULT_SERVER, option
from clients.top.live import view, view_once

Servers = Annotated[list[str] | None, option(f"host:port, {DEFAULT_SERVER}; may be repeated.")]
Interval = Annotated[float, typer.Option(min=0.1, help="Seconds between two frames.")]
Once = Annotated[bool, typer.Option("--once", help="Print one frame, after one interval.")]


def top(server: Servers = None, interval: Interval = 1.0, once: Once = False) -> None:
    """Watch speed, queue, KV pool, evictions and latency live; Ctrl-C ends it.

    Where output is not a terminal, frames follow each other as plain text.
    """
    servers = list(dict.fromkeys(server or [DEFAULT_SERVER]))
    show = view_once if once else view
    with one_line_errors(), suppress(KeyboardInterrupt):
        asyncio.run(show(servers, Console(highlight=False), interval))
