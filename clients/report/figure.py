"""The figure: Pass@1 and throughput against the KV budget, one panel per task of one model."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clients.report.numbers import Summary, policies_of, tasks_of
from clients.report.panel import GREY, INK, ORANGE, Frame, draw_panel, policy_style

if TYPE_CHECKING:  # matplotlib takes a second to import, and most commands draw nothing
    from matplotlib.figure import Figure

SPEED_LABEL = "delivered tokens per wall-clock second"
BUDGET_LABEL = "KV budget (tokens per sequence, prompt included; full = whole cache)"
FLOOR_LABEL = "problems that never reach the budget"
PANEL = (5.6, 3.3)  # inches
LEFT, RIGHT, HEADER, AXIS_NOTE, LINE = 0.75, 0.85, 0.95, 0.75, 0.165  # inches
LETTERS_PER_INCH = 15.5  # of the caption
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "hatch.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "svg.hashsalt": "sluice",
}
METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}


@dataclass(frozen=True)
class Picture:
    """One figure in two formats."""

    png: bytes
    svg: bytes


@dataclass(frozen=True)
class Page:
    """The sheet in inches: grid of panels, header above, axis note and caption below."""

    columns: int
    rows: int
    caption: list[str]

    @property
    def width(self) -> float:
        return PANEL[0] * max(self.columns, 1.7) + LEFT + RIGHT

    @property
    def footer(self) -> float:
        return AXIS_NOTE + LINE * len(self.caption)

    @property
    def height(self) -> float:
        return PANEL[1] * self.rows + HEADER + self.footer

    @property
    def middle(self) -> float:
        """Half way up the panels, as a share of the height."""
        return (self.footer + self.height - HEADER) / 2 / self.height


def render(summaries: Sequence[Summary], caption: str) -> Picture:
    """Draws the summaries of one model. The same input gives the same bytes."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = draw(summaries, caption)
        svg = save(figure, "svg")
        # without the prologue, which names a document type on the network
        return Picture(png=save(figure, "png"), svg=svg[svg.index(b"<svg") :])


def draw(summaries: Sequence[Summary], caption: str) -> Figure:
    """The figure of one model, not yet rendered."""
    from matplotlib.figure import Figure

    tasks = tasks_of(summaries)
    columns = min(2, len(tasks))
    bare = Page(columns, math.ceil(len(tasks) / columns), [])
    page = Page(columns, bare.rows, textwrap.wrap(caption, int(bare.width * LETTERS_PER_INCH)))
    figure = Figure(figsize=(page.width, page.height), facecolor="white")
    grid = figure.add_gridspec(
        page.rows,
        page.columns,
        left=LEFT / page.width,
        right=1 - RIGHT / page.width,
        top=1 - HEADER / page.height,
        bottom=page.footer / page.height,
        wspace=0.1,
        hspace=0.26,
    )
    frame = _frame(summaries)
    for index, task in enumerate(tasks):
        row, column = divmod(index, columns)
        axes = figure.add_subplot(grid[row, column])
        panel = [s for s in summaries if s.task == task]
        last = column == columns - 1 or task == tasks[-1]
        draw_panel(axes, panel, frame, left=column == 0, right=last)
        axes.set_title(f"{panel[0].model} | {task}", fontsize=10.5, fontweight="bold", pad=7)
    _title(figure, summaries[0].model, page)
    _legend(figure, summaries, frame, page)
    _labels(figure, page)
    return figure


def save(figure: Figure, kind: str) -> bytes:
    """The figure as "png" or "svg", without dates or names of software."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=160, metadata=METADATA[kind])
    return buffer.getvalue()


def _frame(summaries: Sequence[Summary]) -> Frame:
    found = {s.budget for s in summaries}
    whole: list[int | None] = [None] if None in found else []
    budgets = [*sorted(budget for budget in found if budget is not None), *whole]
    speeds = [s.tokens_per_second for s in summaries if s.tokens_per_second]
    top = _round_up(max(speeds, default=1.0))
    return Frame(tuple(budgets), tuple(policies_of(summaries)), top)


def _title(figure: Figure, model: str, page: Page) -> None:
    x, y = LEFT / page.width, 1 - 0.3 / page.height
    title = f"{model}: accuracy and throughput against the KV budget"
    figure.text(x, y, title, fontsize=13, fontweight="bold", va="center")


def _legend(figure: Figure, summaries: Sequence[Summary], frame: Frame, page: Page) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(label=f"Pass@1, {policy}", **policy_style(index))
        for index, policy in enumerate(frame.policies)
    ]
    if None in frame.budgets:
        handles.append(Patch(label="Pass@1, whole cache", color=GREY))
    if any(s.budget is not None and s.share_never_reached for s in summaries):
        handles.append(Line2D([], [], color=INK, linewidth=1.8, label=FLOOR_LABEL))
    speed = ", ".join(["tokens per second", *frame.policies[:1]])
    handles.append(Line2D([], [], color=ORANGE, linewidth=1.8, marker="o", label=speed))
    figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=((LEFT - 0.1) / page.width, 1 - 0.57 / page.height),
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        columnspacing=1.4,
        handlelength=1.5,
    )


def _labels(figure: Figure, page: Page) -> None:
    """Axis labels, which the panels share, and the caption."""
    center: dict[str, Any] = {"ha": "center", "va": "center"}
    figure.text(0.2 / page.width, page.middle, "Pass@1 (%)", rotation=90, **center)
    right = 1 - 0.18 / page.width
    figure.text(right, page.middle, SPEED_LABEL, rotation=90, color=ORANGE, **center)
    figure.text(0.5, (page.footer - 0.43) / page.height, BUDGET_LABEL, **center)
    for index, line in enumerate(page.caption):
        y = page.footer - 0.67 - LINE * index
        place = (LEFT / page.width, y / page.height)
        figure.text(*place, line, fontsize=7.5, color="#555555", va="center")


def _round_up(value: float) -> float:
    """The next larger number of which a fifth is round."""
    step = 10.0 ** math.floor(math.log10(value))
    tops = (step * factor for factor in (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0))
    return next(top for top in tops if top >= value)
