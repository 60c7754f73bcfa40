"""Rows survive the disk, also when a writer is killed."""

import os
from pathlib import Path

import pytest

from clients import records
from clients.errors import DataError
from tests.clients.builders import failed, row


def test_round_trip(tmp_path: Path) -> None:
    rows = [
        row("a", budget=96, policy="r_kv", text='line\n"quoted" \u2028 é', first_token=0.25),
        row("a"),
        failed("b", error="UNAVAILABLE: gone"),
    ]
    records.write(tmp_path / "deep" / "rows.jsonl", rows)
    assert records.read(tmp_path / "deep" / "rows.jsonl") == rows


def test_no_file_no_rows(tmp_path: Path) -> None:
    assert records.read(tmp_path / "none.jsonl") == []


def test_the_last_row_of_a_key_wins(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    records.write(path, [failed("a"), row("b")])
    records.write(path, [row("a", segment=1)])
    assert records.read(path) == [row("a", segment=1), row("b")]


def test_a_torn_line_is_ignored_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    records.write(path, [row("a"), row("b")])
    path.write_bytes(path.read_bytes()[:-20])
    assert records.read(path) == [row("a")]
    records.write(path, [row("c")])
    assert records.read(path) == [row("a"), row("c")]


@pytest.mark.parametrize("line", ["{", "[]", '{"run": 1}', "", "null"])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: not a row"):
        records.read(path)


def test_cells_name_themselves() -> None:
    assert str(row(budget=96, policy="r_kv").cell) == "m t 96 r_kv"
    assert str(row().cell) == "m t full"


def test_a_write_that_stops_half_way_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    real = os.write
    with records.Writer(path) as writer:
        writer.add(row("a"))
        monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:30]))
        with pytest.raises(DataError, match=r"No space left on device\. The rows before are safe"):
            writer.add(row("b"))
        monkeypatch.undo()
        writer.add(row("c"))
    assert records.read(path) == [row("a"), row("c")]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        records.Writer(tmp_path / "file" / "rows.jsonl")


def test_failed_and_unscored_are_told_apart() -> None:
    assert failed().failed
    assert not failed().unscored
    broken = row(status="error", correct=False)
    assert not broken.failed
    assert broken.unscored
    assert row(status="timeout", correct=False).unscored
    assert not row(status="no_answer", correct=False).unscored
