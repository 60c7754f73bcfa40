"""Benchmarks that tests run store their rows in a folder of the test."""

from pathlib import Path

import pytest

from benchmarks import results


@pytest.fixture(autouse=True)
def stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the rows go."""
    folder = tmp_path / "rows"
    monkeypatch.setattr(results.append, "__defaults__", (folder,))
    return folder
