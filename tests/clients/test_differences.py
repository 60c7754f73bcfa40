"""What is compared with what, and that the tables and the figure show it."""

from collections import Counter

import pytest

from clients.records import Record
from clients.report import intervals, table
from clients.report.differences import MEAN, Compared, compare
from clients.statistics import paired_difference
from tests.clients.builders import row
from tests.clients.reports import made_up


def test_every_pair_is_compared_once() -> None:
    found = compare(made_up())
    per_task = {"whole cache": 4, "next budget": 2, "baseline policy": 2}
    assert Counter(c.kind for c in found) == {kind: 3 * n for kind, n in per_task.items()}
    assert {c.task for c in found} == {"hop", "memo", MEAN}
    keys = [(c.task, c.budget, c.policy, c.kind) for c in found]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("compared", compare(made_up()), ids=lambda c: f"{c.task} {c.kind}")
def test_a_comparison_is_the_paired_difference_of_its_two_cells(compared: Compared) -> None:
    def cell(budget: int | None, policy: str | None) -> list[Record]:
        return [
            r
            for r in made_up()
            if (r.budget, r.policy) == (budget, policy) and compared.task in (r.task, MEAN)
        ]

    expected = paired_difference(
        cell(compared.budget, compared.policy),
        cell(compared.against_budget, compared.against_policy),
    )
    assert expected is not None
    assert (compared.difference, compared.low, compared.high, compared.problems) == (
        expected.mean,
        expected.low,
        expected.high,
        expected.problems,
    )


def test_budgets_are_compared_with_the_next_larger_one_of_their_policy() -> None:
    rows = [row(budget=b, policy=p) for b in (512, 96, 128) for p in ("r_kv", "h2o")]
    found = [c for c in compare(rows) if c.kind == "next budget"]
    assert all(c.policy == c.against_policy for c in found)
    pairs = {(c.budget, c.against_budget) for c in found}
    assert pairs == {(96, 128), (128, 512)}


def test_without_the_whole_cache_the_largest_budget_stands_for_it() -> None:
    rows = [row(budget=b, policy="r_kv") for b in (96, 128, 192)]
    found = intervals.against_reference(compare(rows))
    assert [(c.budget, c.against_budget, c.kind) for c in found] == [
        (96, 192, "largest budget"),
        (128, 192, "largest budget"),
    ]
    assert compare([row(budget=96, policy="r_kv")]) == []
    assert compare([row()]) == []


def test_models_are_never_compared_with_each_other() -> None:
    rows = [row(model="a"), row(model="b", budget=96, policy="r_kv")]
    assert compare(rows) == []


def test_no_mean_where_a_task_is_missing() -> None:
    rows = [r for r in made_up() if not (r.task == "memo" and r.budget == 96)]
    found = compare(rows)
    assert not any(c.task == MEAN and c.budget == 96 for c in found)
    assert any(c.task == MEAN and c.budget == 192 for c in found)


def test_the_table_has_the_interval_and_a_star() -> None:
    rows = [
        row(f"{i}", budget=budget, policy=policy, correct=i < right)
        for budget, policy, right in [(None, None, 40), (96, "r_kv", 10), (128, "r_kv", 39)]
        for i in range(40)
    ]
    headings, body = table.differences_of([c for c in compare(rows) if c.kind == "whole cache"])
    assert headings == ["cell", "minus", "t"]
    assert [line[:2] for line in body] == [["96 r_kv", "full"], ["128 r_kv", "full"]]
    assert body[0][2].startswith("-75.0 [-")
    assert body[0][2].endswith(" *")
    assert body[1][2].startswith("-2.5 [-")
    assert body[1][2].endswith("0.0]")


def test_the_figure_draws_every_interval_filled_where_it_excludes_0() -> None:
    found = intervals.against_reference(compare(made_up()))
    sheet = intervals.draw(found, "caption")
    assert [axes.get_title() for axes in sheet.figure.axes] == ["hop", "memo", MEAN]
    for axes in sheet.figure.axes:
        own = [c for c in found if c.task == axes.get_title()]
        marks = [
            (line.get_ydata()[0], line.get_markerfacecolor() == line.get_color())
            for line in axes.lines
            if line.get_marker() in ("o", "s")
        ]
        assert sorted(marks) == sorted((100 * c.difference, c.excludes_zero) for c in own)
        low, high = axes.get_ylim()
        assert low <= min(100 * c.low for c in own)
        assert max(100 * c.high for c in own) <= high
        assert low < 0 < high
