"""The verdict on a row, from the row alone; so a recorded row can be scored again."""

import msgspec

from clients.records import Record
from clients.scoring import Score, score_choice, score_math


def verdict(row: Record) -> Record:
    """`row` with the verdict on its text. May take seconds. A failed request stays as it is."""
    if row.failed:
        return row
    score = _score(row)
    return msgspec.structs.replace(
        row, extracted=score.extracted, correct=score.correct, status=score.status
    )


def _score(row: Record) -> Score:
    truncated, ended = row.finish_reason == "length", _thinking_ended(row)
    if row.options is None:
        return score_math(row.text, row.gold, truncated=truncated, thinking_ended=ended)
    return score_choice(row.text, row.gold, row.options, truncated=truncated, thinking_ended=ended)


def _thinking_ended(row: Record) -> bool | None:
    """False where the server says that every token was thinking; None where it does not know."""
    if row.reasoning_tokens == 0:
        return None
    return row.reasoning_tokens < row.completion_tokens
