"""Rows of a benchmark: what was measured, and on what."""

import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from clients.environment import environment

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def append(name: str, rows: Iterable[Mapping[str, Any]], results: Path = RESULTS) -> Path:
    """Appends rows to `<results>/<name>.jsonl`, each with time, commit, machine and versions."""
    stamp = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "environment": msgspec.to_builtins(environment()),
    }
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.jsonl"
    with path.open("ab") as file:
        for row in rows:
            file.write(msgspec.json.encode({**row, **stamp}) + b"\n")
    return path


def commit() -> str:
    """The checked-out commit, with "+" where files differ from it; "unknown" outside a checkout."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
