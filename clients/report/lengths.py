"""The figure of lengths: tokens of an answer, and answers without a result, by budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from clients.report.figure import BUDGET_LABEL, budgets_of
from clients.report.numbers import Summary, policies_of, tasks_of
from clients.report.sheet import Grid, Picture, Sheet, paint
from clients.report.style import INK, WHOLE_MARK, line_style, tidy

Value = Callable[[Summary], float | None]
MOST_COLUMNS = 4


def render(summaries: Sequence[Summary], caption: str) -> Picture:
    """The figure of one model."""
    return paint(lambda: draw(summaries, caption))


def draw(summaries: Sequence[Summary], caption: str) -> Sheet:
    """The figure of one model, not yet rendered: two panels per task, one above the other."""
    tasks, policies = tasks_of(summaries), policies_of(summaries)
    columns = min(MOST_COLUMNS, len(tasks))
    rows = 2 * -(-len(tasks) // columns)
    panel = (3.0 if columns > 2 else 4.2, 2.3)
    grid = Grid(columns, rows, panel=panel, gaps=(0.08, 0.32), least=9.0)
    title = f"{summaries[0].model}: length of the answers, and answers without a result"
    sheet = Sheet(grid, title, _handles(summaries, policies), caption, BUDGET_LABEL)
    budgets = budgets_of(summaries)
    tops = (
        max(10.0, _top(summaries, (_median, _p90))),
        max(10.0, _top(summaries, (_truncated, _silent))),
    )
    for index, task in enumerate(tasks):
        block, column = divmod(index, columns)
        own = [s for s in summaries if s.task == task]
        for half, values in enumerate(((_median, _p90), (_truncated, _silent))):
            axes = sheet.axes((2 * block + half) * columns + column)
            _panel(axes, own, policies, budgets, values)
            axes.set_ylim(-0.03 * tops[half], 1.08 * tops[half])
            axes.tick_params(labelleft=column == 0)
            if half == 0:
                axes.set_title(task, fontsize=10, fontweight="bold", pad=6)
                axes.yaxis.set_major_formatter("{x:,.0f}")
    for row in range(rows):
        sheet.label_left("share of answers (%)" if row % 2 else "tokens of an answer", row)
    return sheet


def _median(summary: Summary) -> float | None:
    return summary.completion_tokens_median


def _p90(summary: Summary) -> float | None:
    return summary.completion_tokens_p90


def _truncated(summary: Summary) -> float | None:
    return None if summary.share_truncated is None else 100 * summary.share_truncated


def _silent(summary: Summary) -> float | None:
    if summary.share_no_answer is None or summary.share_unscored is None:
        return None
    return 100 * (summary.share_no_answer + summary.share_unscored)


def _top(summaries: Sequence[Summary], values: Sequence[Value]) -> float:
    return max(value(s) or 0.0 for s in summaries for value in values)


def _panel(
    axes: Any,
    summaries: Sequence[Summary],
    policies: Sequence[str],
    budgets: Sequence[int | None],
    values: Sequence[Value],
) -> None:
    """Both values of every policy: the first filled and solid, the second hollow and faint."""
    tidy(axes)
    for second, value in enumerate(values):
        for policy in (*policies, None):
            own = [s for s in summaries if s.policy == policy]
            points = sorted(
                (budgets.index(s.budget), y) for s in own if (y := value(s)) is not None
            )
            if points:
                axes.plot(*zip(*points, strict=True), **_style(policies, policy, bool(second)))
    axes.set_xticks(range(len(budgets)), ["full" if b is None else str(b) for b in budgets])
    axes.set_xlim(-0.5, len(budgets) - 0.5)


def _style(policies: Sequence[str], policy: str | None, second: bool) -> dict[str, Any]:
    whole = {"color": INK, "marker": WHOLE_MARK, "linestyle": "none", "markersize": 11}
    style = whole if policy is None else {"markersize": 5.5, **line_style(policies.index(policy))}
    if not second:
        return {**style, "linewidth": 1.6, "zorder": 4}
    return {**style, "linewidth": 0.8, "markerfacecolor": "white", "zorder": 3}


def _handles(summaries: Sequence[Summary], policies: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=p, **_style(policies, p, False)) for p in policies]
    if any(s.policy is None for s in summaries):
        handles.append(Line2D([], [], label="whole cache", **_style(policies, None, False)))
    mark: dict[str, Any] = {"color": INK, "marker": "o", "markersize": 5.5}
    filled = "filled: median, cut off"
    hollow = "hollow: 90th percentile, no answer or unscored"
    handles.append(Line2D([], [], label=filled, linewidth=1.6, **mark))
    handles.append(Line2D([], [], label=hollow, linewidth=0.8, markerfacecolor="white", **mark))
    return handles
