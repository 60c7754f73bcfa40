"""The sheet a figure is drawn on: title, legend, a grid of panels, axis labels, caption."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clients.report.style import NOTE, RC

if TYPE_CHECKING:  # matplotlib takes a second to import, and most commands draw nothing
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE, LEGEND_LINE, PANEL_TITLE = 0.47, 0.22, 0.33  # inches, from the top
AXIS_NOTE, LINE = 0.75, 0.18  # inches
LETTERS_PER_INCH = 16.0  # of the caption
HANDLE, LETTER = 0.5, 0.068  # inches that the mark and each letter of a legend take
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
class Grid:
    """Panels and the room around them, in inches; gaps are shares of a panel."""

    columns: int
    rows: int = 1
    panel: tuple[float, float] = (5.2, 3.2)
    left: float = 0.75
    right: float = 0.3
    gaps: tuple[float, float] = (0.1, 0.28)
    least: float = 8.0  # width of the sheet, for title and caption

    @property
    def width(self) -> float:
        return max(self.panel[0] * self.columns + self.left + self.right, self.least)


class Sheet:
    """A figure in the making."""

    def __init__(
        self, grid: Grid, title: str, handles: Sequence[Any], caption: str, across: str
    ) -> None:
        """Draws everything but the panels.

        Args:
            handles: of the legend, in order.
            caption: wrapped below; what is drawn, n, and what not to conclude.
            across: label of the x axis, which the panels share.
        """
        from matplotlib.figure import Figure

        columns = _legend_columns(handles, grid.width - grid.left)
        legend = LEGEND_LINE * math.ceil(len(handles) / columns) if handles else 0.0
        lines = textwrap.wrap(caption, int((grid.width - grid.left - 0.2) * LETTERS_PER_INCH))
        self.grid = grid
        self._header = TITLE + legend + PANEL_TITLE
        self._footer = AXIS_NOTE + LINE * len(lines)
        self._height = grid.panel[1] * grid.rows + self._header + self._footer
        self.figure: Figure = Figure(figsize=(grid.width, self._height), facecolor="white")
        self._cells = self.figure.add_gridspec(
            grid.rows,
            grid.columns,
            left=grid.left / grid.width,
            right=1 - grid.right / grid.width,
            top=1 - self._header / self._height,
            bottom=self._footer / self._height,
            wspace=grid.gaps[0],
            hspace=grid.gaps[1],
        )
        place: dict[str, Any] = {"va": "center", "ha": "left"}
        self._write(grid.left, self._height - 0.3, title, fontsize=13, weight="bold", **place)
        self._write(grid.width / 2, self._footer - 0.43, across, va="center", ha="center")
        for index, line in enumerate(lines):
            y = self._footer - 0.7 - LINE * index
            self._write(grid.left, y, line, fontsize=8, color=NOTE, **place)
        if handles:
            self.figure.legend(
                handles=list(handles),
                loc="upper left",
                bbox_to_anchor=(grid.left / grid.width, 1 - TITLE / self._height),
                ncols=columns,
                frameon=False,
                fontsize=8.5,
                columnspacing=1.4,
                handlelength=2.0,
                borderaxespad=0,
                borderpad=0,
            )

    def axes(self, index: int) -> Axes:
        """A new panel; they are counted line by line from the upper left."""
        row, column = divmod(index, self.grid.columns)
        return self.figure.add_subplot(self._cells[row, column])

    def label_left(self, text: str, row: int | None = None) -> None:
        """What the left axes show; of all lines of panels, or of one."""
        y = self._middle(row)
        self._write(0.2, y, text, rotation=90, ha="center", va="center")

    def label_right(self, text: str, colour: str) -> None:
        """What the right axes show."""
        x, y = self.grid.width - 0.18, self._middle(None)
        self._write(x, y, text, rotation=90, color=colour, ha="center", va="center")

    def _middle(self, row: int | None) -> float:
        panels = self._height - self._header - self._footer
        gap, rows = self.grid.gaps[1], self.grid.rows
        one = panels / (rows + (rows - 1) * gap)
        down = panels / 2 if row is None else one * (row * (1 + gap) + 0.5)
        return self._height - self._header - down

    def _write(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text(x / self.grid.width, y / self._height, text, **style)


def paint(draw: Callable[[], Sheet]) -> Picture:
    """Draws a sheet in both formats. The same input gives the same bytes."""
    import matplotlib as mpl

    with mpl.rc_context(RC):
        figure = draw().figure
        return Picture(png=_save(figure, "png"), svg=svg_of(figure))


def svg_of(figure: Figure) -> bytes:
    """The figure as SVG, without the prologue, which names a document type on the network."""
    svg = _save(figure, "svg")
    return svg[svg.index(b"<svg") :]


def _save(figure: Figure, kind: str) -> bytes:
    """The figure as "png" or "svg", without dates or names of software."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=160, metadata=METADATA[kind])
    return buffer.getvalue()


def _legend_columns(handles: Sequence[Any], width: float) -> int:
    """As many as fit: all in one line, or else in columns of the widest."""
    needs = [HANDLE + LETTER * len(str(handle.get_label())) for handle in handles]
    if sum(needs) <= width:
        return max(1, len(needs))
    return max(1, int(width / max(needs)))
