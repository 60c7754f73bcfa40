"""The two forms of a line in the log."""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.config import LogConfig
from engine.logs import BackgroundHandler, JsonFormatter, PrettyFormatter, fields

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


def test_a_reader_that_stalls_holds_up_nobody_and_learns_what_it_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.logs.MOST_WAITING", 200_000)
    monkeypatch.setattr("engine.logs.LAST_LINES_SECONDS", 60)
    read, write = os.pipe()
    handler = BackgroundHandler(write)
    for number in range(3000):  # 300 kB; the pipe takes 64
        handler.emit(record("%04d%s", number, "x" * 96))
    chunks = []
    reader = threading.Thread(
        target=lambda: chunks.extend(iter(lambda: os.read(read, 1 << 16), b""))
    )
    reader.start()
    handler.close()
    os.close(write)
    reader.join()
    os.close(read)
    lines = b"".join(chunks).decode().splitlines()
    told = [line for line in lines if "were lost" in line]
    numbers = [int(line[:4]) for line in lines if line not in told]
    assert numbers == sorted(numbers)
    assert 1900 < len(numbers) < 3000
    assert sum(int(line.split()[0]) for line in told) == 3000 - len(numbers)


def test_lines_that_nothing_takes_are_lost() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    handler = BackgroundHandler(full)
    for number in range(100):
        handler.emit(record("%d", number))
    handler.close()
    os.close(full)
    assert not handler._thread.is_alive()
