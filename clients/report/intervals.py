"""The figure of differences: Pass@1 minus the reference's, with intervals, by budget and task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from clients.report.differences import Compared
from clients.report.sheet import Grid, Picture, Sheet, paint
from clients.report.style import INK, line_style, tidy

REFERENCES = ("whole cache", "largest budget")
ACROSS = "KV budget (tokens per sequence, prompt included)"
SPREAD = 0.5  # of a category, over which the policies stand side by side


def against_reference(compared: Sequence[Compared]) -> list[Compared]:
    """The comparisons with the whole cache, or with what stands for it."""
    return [c for c in compared if c.kind in REFERENCES]


def render(compared: Sequence[Compared], caption: str) -> Picture:
    """The figure of one model."""
    return paint(lambda: draw(compared, caption))


def draw(compared: Sequence[Compared], caption: str) -> Sheet:
    """The figure of one model, not yet rendered."""
    tasks = list(dict.fromkeys(c.task for c in compared))
    policies = list(dict.fromkeys(c.policy or "" for c in compared))
    budgets = sorted({c.budget for c in compared})
    reference = compared[0].kind
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    grid = Grid(columns, rows, panel=(3.6, 2.7), gaps=(0.07, 0.28), least=9.0)
    title = f"{compared[0].model}: Pass@1 minus that of the {reference}"
    sheet = Sheet(grid, title, _handles(policies), caption, ACROSS)
    low = min(0.0, *(100 * c.low for c in compared)) - 4
    high = max(0.0, *(100 * c.high for c in compared)) + 4
    for index, task in enumerate(tasks):
        axes = sheet.axes(index)
        tidy(axes)
        axes.axhline(0, color=INK, linewidth=1.1, zorder=2)
        for number, policy in enumerate(policies):
            shift = SPREAD * ((number + 0.5) / len(policies) - 0.5)
            for c in compared:
                if c.task == task and (c.policy or "") == policy:
                    _point(axes, budgets.index(c.budget) + shift, c, line_style(number))
        axes.set_xticks(range(len(budgets)), [str(budget) for budget in budgets])
        axes.set_xlim(-0.5, len(budgets) - 0.5)
        axes.set_ylim(low, high)
        axes.tick_params(labelleft=index % columns == 0)
        axes.set_title(task, fontsize=10, fontweight="bold", pad=6)
    sheet.label_left("percentage points of Pass@1")
    return sheet


def _point(axes: Any, x: float, compared: Compared, style: dict[str, Any]) -> None:
    """Filled where the interval excludes 0."""
    y, colour = 100 * compared.difference, style["color"]
    reach = [[y - 100 * compared.low], [100 * compared.high - y]]
    axes.errorbar(x, y, reach, fmt="none", ecolor=colour, elinewidth=1.3, capsize=2, zorder=3)
    fill = colour if compared.excludes_zero else "white"
    axes.plot(
        x, y, marker=style["marker"], color=colour, markerfacecolor=fill, markersize=6,
        linestyle="none", zorder=4,
    )  # fmt: skip


def _handles(policies: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = []
    for index, policy in enumerate(policies):
        style = {**line_style(index), "linestyle": "-", "linewidth": 1.3}
        handles.append(Line2D([], [], label=policy, markersize=6, **style))
    hollow: dict[str, Any] = {
        "marker": "o",
        "color": INK,
        "markerfacecolor": "white",
        "linestyle": "none",
    }
    return [*handles, Line2D([], [], label="hollow: the interval holds 0", **hollow)]
