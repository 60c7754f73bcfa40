"""One engine process and the pipe to it. Knows neither streams nor what the messages mean.

Two threads keep both sides from ever waiting for the event loop: a reader that always drains the
pipe and hands each message over with one call_soon_threadsafe, and a writer with a queue.
"""

import asyncio
import atexit
import contextlib
import logging
import multiprocessing
import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

import msgspec

from engine.messages import EngineMessage, FrontMessage, Shutdown, decode_engine, encode
from service.config import EngineConfig

log = logging.getLogger(__name__)

EngineTarget = Callable[[EngineConfig, Connection], None]

REAP_SECONDS = 5.0  # for a process whose pipe has ended


class EngineLink:
    """A started engine process; call it from the event loop's thread."""

    def __init__(
        self,
        config: EngineConfig,
        target: EngineTarget,
        on_message: Callable[[EngineMessage], None],
        on_end: Callable[[], None],
    ) -> None:
        """Spawns `target`.

        `on_message`, and then once `on_end` (the pipe has ended), are called on the loop; `ended`
        is set when the process is gone as well.
        """
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_end = on_end
        self._outbox: queue.SimpleQueue[FrontMessage | None] = queue.SimpleQueue()
        self.ended = asyncio.Event()
        # spawn, not fork: a fork would share the locks of whatever threads run here
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=target, args=(config, theirs), name="sluice-engine", daemon=True
        )
        self._process.start()
        atexit.register(self.kill)  # else multiprocessing would wait at exit for a live engine
        theirs.close()  # or the end of the engine would not be the end of the pipe
        threading.Thread(target=self._read, name="engine-reader", daemon=True).start()
        self._writer = threading.Thread(target=self._write, name="engine-writer", daemon=True)
        self._writer.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    def send(self, message: FrontMessage) -> None:
        """Queues a message; without effect once the engine has ended."""
        self._outbox.put(message)

    def kill(self) -> None:
        self._process.kill()

    async def stop(self, timeout: float) -> None:
        """Shuts the engine down, by force if it takes longer than `timeout` seconds."""
        self.send(Shutdown())
        try:
            await asyncio.wait_for(self.ended.wait(), timeout)
        except TimeoutError:
            log.warning("the engine did not shut down within %g s; killing it", timeout)
            self.kill()
            await self.ended.wait()

    def _read(self) -> None:
        try:
            while True:
                message = decode_engine(self._connection.recv_bytes())
                self._loop.call_soon_threadsafe(self._on_message, message)
        except (EOFError, OSError):
            pass  # the engine is gone
        except msgspec.MsgspecError:
            log.exception("the engine sent what this version cannot read; ending it")
            self.kill()
        except RuntimeError:
            self.kill()  # the loop is closed: nobody is left to serve
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._on_end)
        self._outbox.put(None)
        self._writer.join()
        self._reap()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.ended.set)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send_bytes(encode(message))
            except OSError:
                return  # the reader sees the end of file

    def _reap(self) -> None:
        self._process.join(REAP_SECONDS)
        if self._process.exitcode is None:
            log.warning("the engine closed its pipe and lives on; killing it")
            self.kill()
            self._process.join()
        self._connection.close()
        atexit.unregister(self.kill)
