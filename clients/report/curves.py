"""The figure of policies: Pass@1 against the KV budget, one line per policy, a panel per model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clients.records import Record
from clients.report.comparison import Comparison
from clients.report.numbers import Summary, models_of, policies_of, tasks_of
from clients.report.sheet import Grid, Picture, Sheet, paint
from clients.report.style import GREY, INK, line_style, tidy
from clients.report.words import synthetic

if TYPE_CHECKING:  # matplotlib takes a second to import, and most commands draw nothing
    from matplotlib.axes import Axes

PANEL = (5.0, 3.9)  # inches
Styles = dict[str, dict[str, Any]]  # by policy
ACROSS = "KV budget (tokens per sequence, prompt included)"


def render(summaries: Sequence[Summary], caption: str) -> Picture:
    """All models of the summaries side by side."""
    return paint(lambda: draw(summaries, caption))


def draw(summaries: Sequence[Summary], caption: str) -> Sheet:
    """The figure, not yet rendered."""
    models = [
        Comparison([summary for summary in summaries if summary.model == model])
        for model in models_of(summaries)
    ]
    columns = min(2, len(models))
    grid = Grid(columns, -(-len(models) // columns), panel=PANEL, least=9.0)
    styles = {policy: line_style(i) for i, policy in enumerate(policies_of(summaries))}
    handles = _handles(models, styles)
    sheet = Sheet(grid, "Policies under the same budget", handles, caption, ACROSS)
    for index, found in enumerate(models):
        axes = sheet.axes(index)
        _panel(axes, found, styles)
        axes.set_title(found.model, fontsize=10.5, fontweight="bold")
        axes.tick_params(labelleft=index % columns == 0)
    tasks = tasks_of(summaries)
    sheet.label_left(f"Pass@1 (%), mean of {len(tasks)} tasks" if len(tasks) > 1 else "Pass@1 (%)")
    return sheet


def caption(rows: Sequence[Record], decoding: str = "greedy decoding") -> str:
    """What is drawn, n, the error bars, and what not to conclude."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    problems = len({(row.task, row.problem) for row in rows})
    sentence = (
        f"Answers to {problems} problems of {', '.join(tasks)}, {decoding}; error bars: one "
        "standard error, clustered by problem. Policies in the order of their mean on the left. "
        "The prompt is pinned; newest tokens and reclaim are the defaults of each policy and "
        f"budget. Grey: problems whose answer never reaches the budget."
    )
    return " ".join([sentence, *synthetic(tasks)])


def _panel(axes: Axes, found: Comparison, styles: Styles) -> None:
    places = range(len(found.budgets))
    tidy(axes)
    for policy in found.policies:
        style = styles[policy]
        points = [
            (place, 100 * line.pass_at_1, 100 * (line.stderr or 0.0))
            for place, budget in zip(places, found.budgets, strict=True)
            if (line := found.line(policy, budget)) is not None and line.pass_at_1 is not None
        ]
        if points:
            x, y, error = zip(*points, strict=True)
            axes.plot(x, y, linewidth=1.5, markersize=4.5, label=policy, zorder=3, **style)
            axes.errorbar(x, y, error, fmt="none", ecolor=style["color"], elinewidth=0.8)
    if found.whole is not None and found.whole.pass_at_1 is not None:
        axes.axhline(100 * found.whole.pass_at_1, color=INK, linewidth=1)
    floors = [100 * found.floor(budget) for budget in found.budgets]
    axes.fill_between(places, floors, color=GREY, alpha=0.35, linewidth=0, zorder=1)
    axes.set_xticks(places, [str(budget) for budget in found.budgets])
    axes.set_ylim(0, 102)


def _handles(models: Sequence[Comparison], styles: Styles) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    ordered = dict.fromkeys(policy for found in models for policy in found.policies)
    handles: list[Any] = [
        Line2D([], [], label=policy, linewidth=1.5, markersize=4.5, **styles[policy])
        for policy in ordered
    ]
    if any(found.whole is not None for found in models):
        handles.append(Line2D([], [], label="whole cache", color=INK, linewidth=1))
    return [*handles, Patch(label="never reach the budget", color=GREY, alpha=0.35)]
