"""Policies side by side: the table says what the rows say, and the figure draws it."""

from typing import Any

import pytest

from clients.records import Record
from clients.report import curves
from clients.report.comparison import Comparison, comparison
from clients.report.numbers import summarise
from tests.clients.builders import row

RIGHT = {  # (policy, budget) -> right answers of 20
    ("r_kv", 96): 10,
    ("better", 96): 18,
    ("same", 96): 10,
    ("r_kv", 128): 16,
    ("better", 128): 17,
    ("same", 128): 12,
    (None, None): 20,
}


def made_up(model: str = "pocket-llama", problems: int = 20) -> list[Record]:
    rows = []
    for (policy, budget), right in RIGHT.items():
        for index in range(problems):
            changes: dict[str, Any] = {
                "model": model,
                "task": "hop" if index % 2 else "memo",
                "policy": policy,
                "budget": budget,
                "correct": index < right,
                "kv_tokens_peak": 90 if index < 2 else budget or 200,
            }
            rows.append(row(f"{index}", **changes))
    return rows


def cells(table: str) -> dict[str, list[str]]:
    """The table's lines by their first cell."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return {line[0]: [cell.strip() for cell in line[1:]] for line in lines}


def test_a_line_per_policy_the_best_first() -> None:
    table = comparison(made_up())
    assert table.startswith("### pocket-llama\n")
    found = cells(table)
    assert list(found)[2:5] == ["`better`", "`r_kv`", "`same`"]
    assert found["policy"] == ["96", "128", "mean"]
    assert found["`r_kv`"][2] == "65.0"
    assert found["`same`"][1].startswith("60.0 ± ")
    assert found["whole cache"][-1].startswith("100.0")


def test_stars_mark_paired_differences_that_are_not_chance() -> None:
    found = cells(comparison(made_up()))
    assert found["`better`"][0].endswith(" *"), "8 of 20 problems more, none fewer"
    assert not found["`better`"][1].endswith("*"), "one problem of 20"
    assert found["`same`"][0].startswith("50.0")
    assert not found["`same`"][0].endswith("*"), "the same problems are right"
    assert found["`same`"][1].endswith(" *"), "worse counts as well"
    assert not any("*" in cell for cell in found["`r_kv`"]), "the baseline itself"


def test_the_floor_is_what_no_budget_touched() -> None:
    found = Comparison(summarise(made_up()))
    assert found.floor(96) == pytest.approx(0.1)
    assert found.floor(128) == pytest.approx(0.1)


def test_the_figure_draws_every_line_and_is_the_same_twice() -> None:
    rows = made_up() + made_up("pocket-qwen")
    summaries = summarise(rows)
    caption = curves.caption(rows)
    assert "20 problems of memo, hop, greedy decoding" in caption
    first, second = curves.render(summaries, caption), curves.render(summaries, caption)
    assert first == second
    text = first.svg.decode()
    for label in ("better", "r_kv", "same", "whole cache", "pocket-llama", "pocket-qwen"):
        assert f"<!-- {label} -->" in text or f">{label}<" in text, label
    one = curves.render([s for s in summaries if s.policy != "same"], caption)
    assert one.png != first.png
