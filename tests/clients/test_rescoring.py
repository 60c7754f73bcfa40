"""Recorded answers, scored again."""

import json
from pathlib import Path

import msgspec
import pytest

from clients import records, rescoring
from clients.errors import DataError
from clients.records import Record
from tests.clients.builders import failed, row


def stale() -> list[Record]:
    """Rows as an older, weaker scorer would have left them."""
    return [
        row("a", text=r"\boxed{\frac12}", gold="0.5", extracted=r"\frac12", correct=False),
        row("b", text=r"\boxed{7}", gold="7", extracted="7"),
        row("c", text="7", gold="7", extracted="7", correct=True),
        row("d", text=r"\boxed{A}", gold="A", options=("x", "y"), extracted=None, correct=False),
        row("e", text=r"\boxed{5", gold="5", finish_reason="length", status="ok", correct=False),
        failed("f"),
    ]


def test_a_run_is_scored_again_and_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    records.write(path, stale())
    recorded = rescoring.read(tmp_path)
    counted: list[int] = []
    after = rescoring.rescore(recorded.rows, lambda: counted.append(1))
    assert len(counted) == 6
    assert [(new.correct, new.status) for new in after] == [
        (True, "ok"),
        (True, "ok"),
        (False, "no_answer"),
        (True, "ok"),
        (False, "truncated"),
        (False, "error"),
    ]
    assert [old.problem for old, _ in rescoring.changes(recorded, after)] == ["a", "c", "d", "e"]
    assert rescoring.write(recorded, after) == 4
    assert records.read(path) == after
    again = rescoring.read(path)
    assert rescoring.changes(again, rescoring.rescore(again.rows)) == []


def test_everything_but_the_verdict_stays(tmp_path: Path) -> None:
    records.write(tmp_path / "rows.jsonl", stale())
    for old, new in zip(stale(), rescoring.rescore(stale()), strict=True):
        verdict = {"extracted": old.extracted, "correct": old.correct, "status": old.status}
        assert msgspec.structs.replace(new, **verdict) == old


def test_rows_of_another_tool(tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    lines = [
        {"id": 4, "completion": r"\boxed{2}", "target": 2, "is_correct": False},
        {"response": "The answer is (B).", "answer": "B", "options": ["x", "y"], "correct": 1},
        {"text": r"\boxed{2}", "gold": "3", "score": True, "finish_reason": "length"},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    recorded = rescoring.read(path)
    assert recorded.judged
    after = rescoring.rescore(recorded.rows)
    assert [new.correct for new in after] == [True, True, False]
    changed = rescoring.changes(recorded, after)
    assert [old.problem for old, _ in changed] == ["4", "3"]
    with pytest.raises(DataError, match="not a run of `sluice sweep`; it was not changed"):
        rescoring.write(recorded, after)


def test_without_verdicts_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text('{"response": "x", "gold": 1}\n')
    assert not rescoring.read(path).judged


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]\n", r"f\.jsonl:1: not a JSON object"),
        ('{"response": "x"}\n', r"f\.jsonl:1: got the columns response; want a response in one of"),
        ('{"response": "x", "gold": 1}\n{\n', r"f\.jsonl:2: not a JSON object"),
        ("", "holds no answers"),
    ],
)
def test_files_that_cannot_be_scored(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        rescoring.read(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        rescoring.read(tmp_path / "none.jsonl")
