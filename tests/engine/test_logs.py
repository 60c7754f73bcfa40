"""The two forms of a line in the log."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.config import LogConfig
from engine.logs import JsonFormatter, PrettyFormatter, fields

ROOT = Path(__file__).parents[2]


def record(message: str, *arguments: object, **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("some.module")
    return logger.makeRecord(
        logger.name, logging.WARNING, "file.py", 1, message, arguments, None, extra=extra
    )


def test_a_json_line_has_the_message_the_fields_and_the_time() -> None:
    entry = record("took %d\nlines", 2, **fields(model="a b", absent=None, share=0.5, ids=[1, 2]))
    entry.created = 1_700_000_000.0625  # 2023-11-14T22:13:20Z
    line = JsonFormatter().format(entry)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.062Z",
        "level": "warning",
        "logger": "some.module",
        "pid": entry.process,
        "message": "took 2\nlines",
        "model": "a b",
        "share": 0.5,
        "ids": [1, 2],
    }


def test_fields_never_hide_what_every_line_has() -> None:
    line = json.loads(JsonFormatter().format(record("said", **fields(level="mine", message="no"))))
    assert (line["level"], line["message"]) == ("warning", "said")


def test_a_traceback_stays_in_its_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        entry = record("failed")
        entry.exc_info = sys.exc_info()
    line = JsonFormatter().format(entry)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: broken")


def test_a_pretty_line_ends_with_the_fields() -> None:
    line = PrettyFormatter().format(record("request", **fields(code="OK", id="a b\n", count=3)))
    assert line.endswith(r' WARNING some.module: request code=OK id="a b\n" count=3')


def test_values_no_format_knows_become_text() -> None:
    path = Path("a/b")
    assert json.loads(JsonFormatter().format(record("x", **fields(path=path))))["path"] == "a/b"


@pytest.mark.parametrize("change", [{"log_level": "loud"}, {"log_format": "xml"}])
def test_settings_that_are_not_known(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="; allowed are "):
        LogConfig(**change)


def test_a_process_writes_warnings_in_the_same_form_and_nothing_below_its_level() -> None:
    code = """
import logging, warnings
from engine.config import LogConfig
from engine.logs import start_logs
start_logs(LogConfig("warning", "json"))
logging.getLogger("a").info("not this")
logging.getLogger("a").warning("this")
warnings.warn("and this")
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = map(json.loads, result.stderr.splitlines())
    assert (first["logger"], first["message"]) == ("a", "this")
    assert "and this" in second["message"]
