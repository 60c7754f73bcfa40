"""The figures of Pass@1 and throughput against the KV budget: by task, and the mean over tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from clients.report.numbers import Line, Summary, policies_of, tasks_of
from clients.report.panel import Bar, Frame, draw_panel
from clients.report.sheet import Grid, Picture, Sheet, paint
from clients.report.style import GREY, INK, ORANGE, bar_style

SPEED_LABEL = "delivered tokens per wall-clock second"
BUDGET_LABEL = "KV budget (tokens per sequence, prompt included; full = whole cache)"
FLOOR_LABEL = "problems that never reach the budget"
MOST = 4  # policies side by side; the figure of policies has room for more
RIGHT = 0.85  # inches, for the numbers of the right axis


def render(summaries: Sequence[Summary], caption: str) -> Picture:
    """The figure of one model: a panel per task."""
    return paint(lambda: draw(summaries, caption))


def render_means(lines: Sequence[Line], caption: str) -> Picture:
    """The figure of all models: the mean over tasks, a panel per model."""
    return paint(lambda: draw_means(lines, caption))


def draw(summaries: Sequence[Summary], caption: str) -> Sheet:
    """The figure of one model, not yet rendered."""
    model = summaries[0].model
    panels = {
        f"{model} | {task}": [s for s in summaries if s.task == task]
        for task in tasks_of(summaries)
    }
    title = f"{model}: accuracy and throughput against the KV budget"
    return _draw(panels, title, caption, "Pass@1 (%)")


def draw_means(lines: Sequence[Line], caption: str) -> Sheet:
    """The figure of all models, not yet rendered."""
    panels: dict[str, list[Line]] = {}
    for line in lines:
        panels.setdefault(line.model, []).append(line)
    titled = {
        f"{model} | {_mean_of(max(len(line.cells) for line in own))}": own
        for model, own in panels.items()
    }
    return _draw(
        titled,
        "Mean over the tasks: accuracy and throughput against the KV budget",
        caption,
        "Pass@1 (%), mean of tasks",
    )


def _draw(panels: dict[str, list[Any]], title: str, caption: str, left: str) -> Sheet:
    shown = {None, *policies_of([cell for panel in panels.values() for cell in panel])[:MOST]}
    panels = {name: [c for c in panel if c.policy in shown] for name, panel in panels.items()}
    cells: list[Bar] = [cell for panel in panels.values() for cell in panel]
    columns = min(2, len(panels))
    frame = _frame(cells)
    grid = Grid(columns, math.ceil(len(panels) / columns), right=RIGHT, least=9.7)
    sheet = Sheet(grid, title, _handles(cells, frame), caption, BUDGET_LABEL)
    for index, (name, panel) in enumerate(panels.items()):
        axes = sheet.axes(index)
        last = index % columns == columns - 1 or index == len(panels) - 1
        draw_panel(axes, panel, frame, left=index % columns == 0, right=last)
        axes.set_title(name, fontsize=10.5, fontweight="bold", pad=7)
    sheet.label_left(left)
    sheet.label_right(SPEED_LABEL, ORANGE)
    return sheet


def _mean_of(tasks: int) -> str:
    return f"mean of {tasks} tasks" if tasks > 1 else "one task"


def _frame(cells: Sequence[Bar]) -> Frame:
    speeds = [cell.tokens_per_second for cell in cells if cell.tokens_per_second]
    top = _round_up(max(speeds, default=1.0))
    return Frame(tuple(budgets_of(cells)), tuple(policies_of(cells)), top)


def budgets_of(cells: Sequence[Bar]) -> list[int | None]:
    """The categories of the x axis: budgets in rising order, then the whole cache."""
    found = {cell.budget for cell in cells}
    whole: list[int | None] = [None] if None in found else []
    return [*sorted(budget for budget in found if budget is not None), *whole]


def _handles(cells: Sequence[Bar], frame: Frame) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(label=f"Pass@1, {policy}", **bar_style(index))
        for index, policy in enumerate(frame.policies)
    ]
    if None in frame.budgets:
        handles.append(Patch(label="Pass@1, whole cache", color=GREY))
    if any(cell.budget is not None and cell.share_never_reached for cell in cells):
        handles.append(Line2D([], [], color=INK, linewidth=1.8, label=FLOOR_LABEL))
    speed = ", ".join(["tokens per second", *frame.policies[:1]])
    handles.append(Line2D([], [], color=ORANGE, linewidth=1.8, marker="o", label=speed))
    return handles


def _round_up(value: float) -> float:
    """The next larger number of which a fifth is round."""
    step = 10.0 ** math.floor(math.log10(value))
    tops = (step * factor for factor in (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0))
    return next(top for top in tops if top >= value)
