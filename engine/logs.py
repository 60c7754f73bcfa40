"""What both processes write to standard error: lines for people, or one JSON object a line.

A record may carry fields beside its message, `log.info("...", extra=fields(model=...))`. Prompts
and answers are never among them, unless an operator asks for prompts (service/request_log.py).
"""

import logging
import os
import queue
import threading
import time
from contextlib import suppress
from typing import Any

import msgspec

from engine.config import LogConfig

PRETTY = "%(asctime)s %(levelname)s %(name)s: %(message)s"
STANDARD_ERROR = 2
MOST_WAITING = 16 * 2**20  # bytes that wait to be written; lines beyond are lost
LAST_LINES_SECONDS = 1.0  # for what still waits when the process ends
LOST = "%d lines of the log were lost: nobody read it, or nothing took it, fast enough"


def fields(**values: Any) -> dict[str, Any]:
    """`extra` of a log call: values beside its message; those that are None are left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


def start_logs(config: LogConfig) -> None:
    """Sends every record of this process to standard error; without effect where somebody has set
    up logging before, as tests do."""
    handler = BackgroundHandler()
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else PrettyFormatter())
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler])
    logging.captureWarnings(True)


def take_over(*libraries: str) -> None:
    """Sends the records of libraries that have handlers of their own our way instead."""
    for name in libraries:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


class BackgroundHandler(logging.Handler):
    """Writes lines to standard error on a thread of its own.

    A pipe that nobody reads blocks whoever writes to it; that must not be the event loop or the
    engine's only thread. Lines that cannot be written, or wait behind too many, are lost.
    """

    def __init__(self, number: int = STANDARD_ERROR) -> None:
        """`number` of the file that is written to."""
        super().__init__()
        self._number = number
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._counting = threading.Lock()
        self._waiting = 0  # bytes
        self._lost = 0  # lines, since the last that was written
        self._thread = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        with self._counting:
            full = self._waiting + len(line) > MOST_WAITING
            if full:
                self._lost += 1
            else:
                self._waiting += len(line)
        if not full:
            self._lines.put(line)

    def close(self) -> None:
        """Waits for what is on its way, but not long."""
        self._lines.put(None)
        self._thread.join(LAST_LINES_SECONDS)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._put(line)
            with self._counting:
                self._waiting -= len(line)
                lost, self._lost = self._lost, 0
            if lost:
                text = LOST % lost
                record = logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None)
                self._put(f"{self.format(record)}\n".encode())

    def _put(self, line: bytes) -> None:
        with suppress(OSError):  # a full disk, a reader that is gone
            while line:
                line = line[os.write(self._number, line) :]


class PrettyFormatter(logging.Formatter):
    """A line for people, with the fields behind it as name=value."""

    def __init__(self) -> None:
        super().__init__(PRETTY)

    def formatMessage(self, record: logging.LogRecord) -> str:
        pairs = [f"{name}={_short(value)}" for name, value in _fields(record).items()]
        return " ".join([super().formatMessage(record), *pairs])


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, pid, message, the fields, and a traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in _fields(record).items() if name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    values: dict[str, Any] = getattr(record, "fields", {})
    return values


def _utc(seconds: float) -> str:
    """ISO 8601 with milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value if value.isidentifier() else msgspec.json.encode(value).decode()
    return msgspec.json.encode(value, enc_hook=str).decode()
