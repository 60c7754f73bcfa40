"""What both processes write to standard error: lines for people, or one JSON object a line.

A record may carry fields beside its message, `log.info("...", extra=fields(model=...))`. Prompts
and answers are never among them, unless an operator asks for prompts (service/request_log.py).
"""

import logging
import time
from typing import Any

import msgspec

from engine.config import LogConfig

PRETTY = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def fields(**values: Any) -> dict[str, Any]:
    """`extra` of a log call: values beside its message; those that are None are left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


def start_logs(config: LogConfig) -> None:
    """Sends every record of this process to standard error; without effect where somebody has set
    up logging before, as tests do."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else PrettyFormatter())
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler])
    logging.captureWarnings(True)


def take_over(*libraries: str) -> None:
    """Sends the records of libraries that have handlers of their own our way instead."""
    for name in libraries:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


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
