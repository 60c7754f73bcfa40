"""Runs the service until a signal, or a failure that it cannot survive."""

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from engine.logs import start_logs
from service.config import ServiceConfig
from service.engine_client import EngineFailed
from service.ports import StartError
from service.server import Server
from service.supervisor import EngineCrashLoop

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def serve(config: ServiceConfig, on_ready: Callable[[Server], None]) -> int:
    """Serves and returns the exit code: 0 after SIGTERM or SIGINT, 1 after a failure.

    `on_ready` is called once requests can be served. The first signal drains for
    config.drain_seconds, the second ends what is left at once; SIGHUP looks at the files of
    tokens and TLS, where there are any. Main thread only.
    """
    start_logs(config.engine.logs)
    loop = asyncio.get_running_loop()
    signalled: asyncio.Queue[int] = asyncio.Queue()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, signalled.put_nowait, number)
    server = Server(config)
    if config.tokens_file or config.tls_cert:  # else the end of a terminal is the end
        loop.add_signal_handler(signal.SIGHUP, server.reload)
    grace: float | None = None
    code = 0
    try:
        if await _first(server.start(), signalled.get()):
            on_ready(server)
            await _first(server.wait_failed(), signalled.get())
            grace = config.drain_seconds
            log.info("draining for up to %g s; a second signal ends it", grace)
    except (EngineFailed, EngineCrashLoop, StartError) as error:
        log.error("%s", error)
        code = 1
    stopping = asyncio.create_task(server.stop(grace))
    if not await _first(asyncio.shield(stopping), signalled.get()):
        await server.hurry()
        await stopping
    return code


async def _first(work: Any, other: Coroutine[Any, Any, Any]) -> bool:
    """Runs both until one is done; whether that was `work`. Cancels the other, raises its error."""
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(other)
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if tasks[0] in done:
        tasks[0].result()
    return tasks[0] in done
