"""One panel of the figure: Pass@1 as bars, throughput as a line, for one task or their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clients.report.numbers import Line, Summary
from clients.report.style import GREY, INK, ORANGE, bar_style, halo, tidy

if TYPE_CHECKING:  # matplotlib takes a second to import, and most commands draw nothing
    from matplotlib.axes import Axes

Bar = Summary | Line  # one bar: of a task, or the mean of the tasks
HEADROOM = 1.18  # of both axes, for the values above the bars
WIDE, NARROW = 0.62, 0.48  # of the first policy alone, and beside others
TALL, BROAD, THICK = 6.5, 0.24, 1.2  # of a value and the line: points of Pass@1, half a category
MANY = 100  # answers, above which values have a decimal


@dataclass(frozen=True)
class Frame:
    """What all panels of a figure share."""

    budgets: tuple[int | None, ...]  # the categories, left to right
    policies: tuple[str, ...]  # the first one wide and filled, the others thin and outlined
    top_speed: float  # tokens per second at the height of 100 %

    def place(self, summary: Bar) -> int:
        """The category of a summary, on the x axis."""
        return self.budgets.index(summary.budget)

    def is_main(self, summary: Bar) -> bool:
        """Whether it is drawn filled, with its value and its speed."""
        return summary.policy is None or summary.policy == self.policies[0]

    def bar(self, summary: Bar) -> tuple[float, float]:
        """Middle and width of its bar."""
        others = self.policies[1:]
        place = self.place(summary)
        if summary.policy is None or not others:
            return place, WIDE
        if summary.policy == self.policies[0]:
            return place - 0.17, NARROW
        thin = 0.3 / len(others)
        return place + 0.1 + thin * (others.index(summary.policy) + 0.5), thin * 0.92

    def style(self, summary: Bar) -> dict[str, Any]:
        """Fill and outline of its bar."""
        if summary.policy is None:
            return {"color": GREY, "linewidth": 0}
        return bar_style(self.policies.index(summary.policy))


def draw_panel(axes: Axes, panel: Sequence[Bar], frame: Frame, *, left: bool, right: bool) -> None:
    """Draws the bars of one task or model; `left` and `right` say which axes carry numbers."""
    for summary in panel:
        _bar(axes, summary, frame)
    names = ["full" if budget is None else str(budget) for budget in frame.budgets]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 100 * HEADROOM)
    axes.set_yticks(range(0, 101, 20))
    tidy(axes)
    axes.tick_params(labelleft=left)
    for summary in panel:
        if summary.budget is None and summary.pass_at_1 is not None:
            height = 100 * summary.pass_at_1
            axes.axhline(height, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    main = sorted((s for s in panel if frame.is_main(s)), key=frame.place)
    front = _speed(axes, main, frame, show=right)
    for summary in main:
        _floor(axes, front, summary, frame)
        _value(axes, front, summary, frame, _heights(main, frame))


def _bar(axes: Axes, summary: Bar, frame: Frame) -> None:
    if summary.pass_at_1 is None:
        return
    x, width = frame.bar(summary)
    value, error = 100 * summary.pass_at_1, 100 * (summary.stderr or 0.0)
    axes.bar(x, value, width=width, zorder=2, **frame.style(summary))
    if error:
        reach = [[min(error, value)], [error]]
        axes.errorbar(x, value, yerr=reach, ecolor=INK, elinewidth=0.9, capsize=2, zorder=3)


def _speed(axes: Axes, main: Sequence[Bar], frame: Frame, *, show: bool) -> Axes:
    """The line, on a second axis that lies in front of the bars."""
    front: Axes = axes.twinx()
    points = [(frame.place(s), s.tokens_per_second) for s in main if s.tokens_per_second]
    front.plot(
        [x for x, _ in points], [y for _, y in points], color=ORANGE, linewidth=1.8, marker="o",
        markersize=6, markeredgewidth=0, zorder=6, path_effects=halo(3.6),
    )  # fmt: skip
    front.set_ylim(0, frame.top_speed * HEADROOM)
    ticks = [frame.top_speed * step / 5 for step in range(6)]
    front.set_yticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    front.tick_params(length=0, labelright=show, labelcolor=ORANGE)
    front.spines[["top", "left", "right"]].set_visible(False)
    return front


def _floor(axes: Axes, front: Axes, summary: Bar, frame: Frame) -> None:
    """What a model scores without the budget ever touching it, if it is right there."""
    if summary.budget is None or not summary.share_never_reached:
        return
    height, place = 100 * summary.share_never_reached, frame.place(summary)
    front.hlines(
        height, place - 0.46, place + 0.46, color=INK, linewidth=1.8, zorder=5,
        path_effects=halo(3.2), transform=axes.transData,
    )  # fmt: skip


def _heights(main: Sequence[Bar], frame: Frame) -> list[tuple[float, float]]:
    """The line of speeds, as (place, height on the axis of Pass@1)."""
    scale = 100 / frame.top_speed
    return [(frame.place(s), scale * s.tokens_per_second) for s in main if s.tokens_per_second]


def _value(
    axes: Axes, front: Axes, summary: Bar, frame: Frame, line: Sequence[tuple[float, float]]
) -> None:
    """Pass@1 in figures above its error bar, and above what would cross it: the floor, the line."""
    if summary.pass_at_1 is None:
        return
    x = frame.bar(summary)[0]
    y = 100 * (summary.pass_at_1 + (summary.stderr or 0.0))
    floor = 100 * (summary.share_never_reached or 0.0) if summary.budget is not None else 0.0
    if y - 1 < floor < y + 8:
        y = floor + 1
    low, high = _span(line, x)
    if low < y + TALL and high > y:
        y = high
    front.annotate(
        f"{100 * summary.pass_at_1:.{1 if summary.n > MANY else 0}f}",
        (x, y),
        xycoords=axes.transData, xytext=(0, 2), textcoords="offset points", ha="center",
        va="bottom", fontsize=8.5, fontweight="bold", zorder=7, path_effects=halo(2.6),
    )  # fmt: skip


def _span(line: Sequence[tuple[float, float]], x: float) -> tuple[float, float]:
    """Lowest and highest that the line comes within the breadth of a value at `x`."""
    if not line:
        return 0.0, 0.0
    import numpy as np  # here, because most commands draw nothing

    places = np.linspace(x - BROAD, x + BROAD, 7)
    heights = np.interp(places, [place for place, _ in line], [height for _, height in line])
    return float(heights.min()) - THICK, float(heights.max()) + THICK
