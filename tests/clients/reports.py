"""Runs to report on."""

from pathlib import Path
from typing import Any

import pytest

from clients.records import Record
from clients.report import sheet
from clients.sweep.plan import Settings
from clients.sweep.run import Run, ServerFacts
from tests.clients.builders import row


def made_up(tasks: tuple[str, ...] = ("hop", "memo"), model: str = "pocket-llama") -> list[Record]:
    """Four problems per cell; the tighter the budget, the fewer are right."""
    rows = []
    for task in tasks:
        for budget, policy, right in [
            (None, None, 4),
            (96, "r_kv", 2),
            (96, "window", 1),
            (192, "r_kv", 3),
            (192, "window", 2),
        ]:
            for index in range(4):
                touched = budget is not None and index > 0
                changes: dict[str, Any] = {
                    "model": model,
                    "task": task,
                    "budget": budget,
                    "policy": policy,
                    "correct": index < right,
                    "kv_tokens_peak": budget if touched and budget else 50,
                    "kv_tokens_evicted": 32 if touched else 0,
                    "eviction_rounds": 2 if touched else 0,
                    "pinned_tokens": 16 if budget else 0,
                    "recent_tokens": 12 if budget else 0,
                    "reclaim_tokens": 16 if budget else 0,
                    "end": 1.0 + index,
                    "completion_tokens": 100,
                }
                rows.append(row(f"{task}-{index}", **changes))
    return rows


def skip_painting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out but not rendered, which takes half a second each."""
    monkeypatch.setattr(sheet, "_save", lambda figure, kind: b"<svg/>")


def facts(model: str) -> ServerFacts:
    return ServerFacts(
        model=model,
        architecture="LlamaForCausalLM",
        device="cpu",
        dtype="float32",
        kernels="numba",
        block_size=16,
        total_blocks=288,
        kv_bytes_per_token=2048,
        max_running=48,
        chat=True,
        default_policy="r_kv",
    )


def a_run(directory: Path, rows: list[Record], settings: Settings = Settings()) -> Path:  # noqa: B008
    with Run(directory, settings) as run:
        for model in dict.fromkeys(row.model for row in rows):
            run.add_server(facts(model))
        for found in rows:
            run.add(found)
    return directory
