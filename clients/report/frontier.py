"""The frontier: Pass@1 against throughput, a point per budget and policy of one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clients.report.figure import SPEED_LABEL
from clients.report.labels import place_labels
from clients.report.numbers import Line, policies_of
from clients.report.sheet import Grid, Picture, Sheet, paint
from clients.report.style import INK, WHOLE_MARK, line_style, tidy

GRID = Grid(1, panel=(8.2, 4.6))
PALE = "#CFCFCF"
MARGIN = 0.09  # of the range of speeds, on both sides, for labels


def measured(lines: Sequence[Line]) -> list[Line]:
    """Those with a Pass@1 and a speed."""
    return [line for line in lines if line.pass_at_1 is not None and line.tokens_per_second]


def efficient(lines: Sequence[Line]) -> list[Line]:
    """Those that no other beats in Pass@1 and in speed, or in one where the other is equal.

    From the fastest to the most accurate.
    """
    found: list[Line] = []
    for line in sorted(measured(lines), key=lambda line: _place(line)[::-1], reverse=True):
        if not any(_beats(other, line) for other in lines if other.pass_at_1 is not None):
            found.append(line)
    return sorted(found, key=_place, reverse=True)


def render(lines: Sequence[Line], caption: str) -> Picture:
    """The figure of one model."""
    return paint(lambda: draw(lines, caption))


def draw(lines: Sequence[Line], caption: str) -> Sheet:
    """The figure of one model, not yet rendered."""
    lines = measured(lines)
    title = f"{lines[0].model}: what a KV budget trades"
    policies = policies_of(lines)
    sheet = Sheet(GRID, title, _handles(lines, policies), caption, SPEED_LABEL)
    axes = sheet.axes(0)
    best = [_place(line) for line in efficient(lines)]
    x, y = zip(*best, strict=True)
    axes.step(x, y, where="post", color=PALE, linewidth=6, zorder=1)
    axes.plot(x, y, color=PALE, marker="o", markersize=17, linestyle="none", zorder=1)
    for index, policy in enumerate(policies):
        _line(axes, [line for line in lines if line.policy == policy], line_style(index))
    whole = [line for line in lines if line.policy is None]
    _line(axes, whole, {"color": INK, "marker": WHOLE_MARK, "linestyle": "none", "markersize": 13})
    speeds = [line.tokens_per_second or 0.0 for line in lines]
    room = MARGIN * ((max(speeds) - min(speeds)) or max(speeds))
    axes.set_xlim(min(speeds) - room, max(speeds) + room)
    _set_heights(axes, lines)
    tidy(axes)
    axes.grid(axis="x", color="#EEEEEE", linewidth=0.7)
    points = [(*_place(line), _name(line), _colour(line, policies)) for line in whole]
    points += [
        (*_place(line), _name(line), _colour(line, policies)) for line in lines if line.policy
    ]
    strokes = [_path([s for s in lines if s.policy == policy]) for policy in policies]
    place_labels(axes, points, [*strokes, *map(_error_bar, lines)])
    tasks = max(len(line.cells) for line in lines)
    sheet.label_left("Pass@1 (%)" + (f", mean of {tasks} tasks" if tasks > 1 else ""))
    return sheet


def _place(line: Line) -> tuple[float, float]:
    return line.tokens_per_second or 0.0, 100 * (line.pass_at_1 or 0.0)


def _name(line: Line) -> str:
    return "full" if line.budget is None else str(line.budget)


def _colour(line: Line, policies: Sequence[str]) -> str:
    return INK if line.policy is None else str(line_style(policies.index(line.policy))["color"])


def _beats(one: Line, other: Line) -> bool:
    left, right = _place(one), _place(other)
    return left != right and left[0] >= right[0] and left[1] >= right[1]


def _line(axes: Any, lines: Sequence[Line], style: dict[str, Any]) -> None:
    """The points of a policy, joined in the order of their budgets, with error bars."""
    if not lines:
        return
    x, y = zip(*_path(lines), strict=True)
    errors = [100 * (line.stderr or 0.0) for line in _ordered(lines)]
    axes.errorbar(x, y, errors, fmt="none", ecolor=style["color"], elinewidth=0.8, zorder=2)
    axes.plot(x, y, **{"linewidth": 1.3, "markersize": 6.5, "zorder": 3, **style})


def _ordered(lines: Sequence[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: line.budget or 0)


def _path(lines: Sequence[Line]) -> list[tuple[float, float]]:
    return [_place(line) for line in _ordered(lines)]


def _error_bar(line: Line) -> list[tuple[float, float]]:
    (x, y), error = _place(line), 100 * (line.stderr or 0.0)
    return [(x, y - error), (x, y + error)]


def _set_heights(axes: Any, lines: Sequence[Line]) -> None:
    """Room for every error bar; from 0 only where that is near, as a frontier is read by shape."""
    low = min(100 * ((line.pass_at_1 or 0.0) - (line.stderr or 0.0)) for line in lines)
    high = max(100 * ((line.pass_at_1 or 0.0) + (line.stderr or 0.0)) for line in lines)
    room = 0.1 * (high - low) + 2
    axes.set_ylim(low - room if low > room else min(-2.0, low - 2), high + room)


def _handles(lines: Sequence[Line], policies: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], label=policy, linewidth=1.3, markersize=6.5, **line_style(index))
        for index, policy in enumerate(policies)
    ]
    if any(line.policy is None for line in lines):
        style: dict[str, Any] = {
            "color": INK,
            "marker": WHOLE_MARK,
            "linestyle": "none",
            "markersize": 11,
        }
        handles.append(Line2D([], [], label="whole cache", **style))
    handles.append(Patch(color=PALE, label="nothing measured is better in both"))
    return handles
