"""How figures look: colours, marks and dashes that can be told apart in grey as well."""

from typing import Any

# Okabe-Ito colours. Orange-red is left to speeds where both are drawn.
BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8C8C8C", "#222222"
FAINT, NOTE = "#E4E4E4", "#555555"  # grid lines; captions
COLOURS = (BLUE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", ORANGE)
DASHES = ("-", "--", ":", "-.")
MARKS = "osD^vPX<>hp8d"
HATCHES = ("////", "....", "xxxx", "")
WHOLE_MARK = "*"
RC: Any = {
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


def bar_style(index: int) -> dict[str, Any]:
    """Fill and outline of the policy that comes `index`-th."""
    if index == 0:
        return {"color": BLUE, "linewidth": 0}
    hatch = HATCHES[(index - 1) % len(HATCHES)]
    return {"facecolor": "white", "edgecolor": BLUE, "linewidth": 1.0, "hatch": hatch}


def line_style(index: int) -> dict[str, Any]:
    """Colour, dash and mark of the policy that comes `index`-th."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[(index + index // len(COLOURS)) % len(DASHES)],
        "marker": MARKS[index % len(MARKS)],
    }


def halo(width: float) -> list[Any]:
    """A white edge around a line or text that crosses others."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]


def tidy(axes: Any) -> None:
    """The frame of every panel: horizontal grid lines, no ticks, open above and at the right."""
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)
