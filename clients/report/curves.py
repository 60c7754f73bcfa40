"""The figure of policies: Pass@1 against the KV budget, one line per policy, a panel per model."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clients.records import Record
from clients.report.comparison import Comparison
from clients.report.figure import STYLE, Picture, save
from clients.report.numbers import Summary, models_of, tasks_of
from clients.report.panel import GREY, INK
from clients.report.words import SYNTHETIC

if TYPE_CHECKING:  # matplotlib takes a second to import, and most commands draw nothing
    from matplotlib.axes import Axes

PANEL, LEGEND, HEIGHT = 5.0, 2.1, 5.4  # inches
CAPTION_LETTERS = 175
# Okabe-Ito colours by three kinds of line, so that lines differ in grey as well: by mark and dash.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", ":")
MARKS = "osD^vPX*<>hp8d"


def render(summaries: Sequence[Summary], caption: str) -> Picture:
    """Draws all models of the summaries side by side. The same input gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    models = models_of(summaries)
    with mpl.rc_context(STYLE):
        width = PANEL * len(models) + LEGEND
        figure = Figure(figsize=(width, HEIGHT), facecolor="white")
        lines = textwrap.wrap(caption, int(CAPTION_LETTERS * width / (2 * PANEL + LEGEND)))
        bottom = 0.13 + 0.03 * len(lines)
        grid = figure.add_gridspec(
            1, len(models), left=0.06, right=1 - LEGEND / width, top=0.92, bottom=bottom, wspace=0.1
        )
        styles: dict[str, dict[str, Any]] = {}
        for index, model in enumerate(models):
            axes = figure.add_subplot(grid[0, index])
            found = Comparison([summary for summary in summaries if summary.model == model])
            _panel(axes, found, styles)
            axes.set_title(model, fontsize=10.5, fontweight="bold")
            axes.tick_params(length=0, labelleft=index == 0)
        figure.axes[0].set_ylabel(f"Pass@1 (%), mean of {', '.join(tasks_of(summaries))}")
        handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
        shown = [handle for label, handle in handles.items() if not str(label).startswith("_")]
        figure.legend(handles=shown, loc="center right", frameon=False, fontsize=8.5)
        for index, line in enumerate(lines):
            figure.text(0.06, bottom - 0.115 - 0.03 * index, line, fontsize=7.5, color="#555555")
        svg = save(figure, "svg")
        return Picture(png=save(figure, "png"), svg=svg[svg.index(b"<svg") :])


def caption(rows: Sequence[Record]) -> str:
    """What is drawn, n, the error bars, and what not to conclude."""
    tasks = {row.task for row in rows}
    problems = len({(row.task, row.problem) for row in rows})
    return (
        f"Greedy answers to {problems} problems of {len(tasks)} families; error bars: one "
        "standard error, clustered by problem. Policies in the order of their mean on the left. "
        "The prompt is pinned; newest tokens and reclaim are the defaults of each policy and "
        f"budget. Grey: problems whose answer never reaches the budget. {SYNTHETIC}"
    )


def _panel(axes: Axes, found: Comparison, styles: dict[str, dict[str, Any]]) -> None:
    places = range(len(found.budgets))
    for policy in found.policies:
        if policy not in styles:
            number = len(styles)
            styles[policy] = {
                "color": COLOURS[number % len(COLOURS)],
                "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
                "marker": MARKS[number % len(MARKS)],
            }
        points = [
            (place, 100 * line.pass_at_1, 100 * (line.stderr or 0.0))
            for place, budget in zip(places, found.budgets, strict=True)
            if (line := found.line(policy, budget)) is not None and line.pass_at_1 is not None
        ]
        x, y, error = zip(*points, strict=True)
        axes.plot(x, y, linewidth=1.5, markersize=4.5, label=policy, zorder=3, **styles[policy])
        axes.errorbar(
            x, y, error, fmt="none", ecolor=styles[policy]["color"], elinewidth=0.8, label="_"
        )
    if found.whole is not None and found.whole.pass_at_1 is not None:
        axes.axhline(100 * found.whole.pass_at_1, color=INK, linewidth=1, label="whole cache")
    floors = [100 * found.floor(budget) for budget in found.budgets]
    axes.fill_between(places, floors, color=GREY, alpha=0.35, linewidth=0, zorder=1)
    axes.set_xticks(places, [str(budget) for budget in found.budgets])
    axes.set_xlabel("KV budget (tokens per sequence, prompt included)")
    axes.set_ylim(0, 102)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
