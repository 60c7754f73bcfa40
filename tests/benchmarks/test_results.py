"""Rows of benchmarks say what they were measured on."""

import subprocess
from pathlib import Path

import msgspec
import pytest

from benchmarks import results


def test_rows_are_appended_with_machine_versions_and_commit(tmp_path: Path) -> None:
    for value in (1, 2):
        path = results.append("speed", [{"value": value}], tmp_path / "new")
    rows = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    assert [row["value"] for row in rows] == [1, 2]
    for row in rows:
        assert row["environment"]["cpu"]
        assert row["environment"]["packages"]["torch"]
        assert row["measured"].endswith("+00:00")
        assert row["commit"] == results.commit()


def test_outside_a_checkout_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert results.commit() == "unknown"
