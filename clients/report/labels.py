"""Labels beside points, placed so that they cover neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from clients.report.style import halo

if TYPE_CHECKING:  # matplotlib takes a second to import, and most commands draw nothing
    from matplotlib.axes import Axes

SIZE = 8.0  # points of type
LETTER_WIDTH, LETTER_HEIGHT = 0.68 * SIZE, 1.15 * SIZE  # points, of digits in bold and small text
NEAR, FAR = 9.0, 17.0  # points from the mark to the middle of the label's near edge
DIRECTIONS = [math.pi * step / 4 for step in (1, 7, 3, 5, 0, 4, 2, 6)]
CLEARANCE = 5.0  # points around a mark that no label may touch

STROKE, STEP = 1.5, 4.0  # half the width of a stroke, and where it is looked at, in points

Box = tuple[float, float, float, float]  # left, bottom, right, top, in points


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float, str, str]],
    strokes: Sequence[Sequence[tuple[float, float]]],
) -> None:
    """Writes (x, y, text, colour) beside each point, in order of importance.

    Each label takes the direction in which it covers least of the points, of the labels before it
    and of `strokes`, which are polylines. All in data units; limits of the axes must be set.
    """
    scale = 72 / axes.figure.dpi

    def in_points(places: Sequence[tuple[float, float]]) -> Any:
        return axes.transData.transform(places) * scale

    marks = in_points([(x, y) for x, y, *_ in points])
    taken = [_around(x, y, CLEARANCE) for x, y in marks]
    taken += [_around(x, y, STROKE) for stroke in strokes for x, y in _along(in_points(stroke))]
    for (x, y, text, colour), mark in zip(points, marks, strict=True):
        width = LETTER_WIDTH * len(text)
        offsets = [_offset(angle, away, width) for away in (NEAR, FAR) for angle in DIRECTIONS]
        boxes = [_box(mark[0] + dx, mark[1] + dy, width) for dx, dy in offsets]
        best = min(range(len(boxes)), key=lambda i: sum(_overlap(boxes[i], box) for box in taken))
        taken.append(boxes[best])
        axes.annotate(
            text, (x, y), xytext=offsets[best], textcoords="offset points", ha="center",
            va="center", fontsize=SIZE, color=colour, zorder=8, path_effects=halo(2.2),
        )  # fmt: skip


def _around(x: float, y: float, reach: float) -> Box:
    return x - reach, y - reach, x + reach, y + reach


def _along(stroke: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Places on a polyline, one every STEP."""
    for (x, y), (right, top) in pairwise(stroke):
        steps = max(1, int(math.hypot(right - x, top - y) / STEP))
        for step in range(1, steps):
            yield x + (right - x) * step / steps, y + (top - y) * step / steps


def _offset(angle: float, away: float, width: float) -> tuple[float, float]:
    reach = away + abs(math.cos(angle)) * width / 2 - 2
    return math.cos(angle) * reach, math.sin(angle) * away


def _box(x: float, y: float, width: float) -> Box:
    return x - width / 2, y - LETTER_HEIGHT / 2, x + width / 2, y + LETTER_HEIGHT / 2


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0
