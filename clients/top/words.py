"""Numbers, times, bars and sparklines as short text."""

from collections.abc import Sequence

RAMP, ASCII_RAMP = "▁▂▃▄▅▆▇█", "_.-:=+*#"
EMPTY = "-"  # where there is no number


def number(value: float) -> str:
    """12, 3.4, 12,345, 123k, 4.5M: at most six characters up to a billion."""
    if value and value < 9.95:
        return f"{value:.1f}".removesuffix(".0")
    if value < 99_999.5:
        return f"{value:,.0f}"
    if value < 999_500:
        return f"{value / 1e3:.0f}k"
    return f"{value / 1e6:.1f}M" if value < 99_950_000 else f"{value / 1e6:,.0f}M"


def rate(value: float | None) -> str:
    """A number per second, or none."""
    return EMPTY if value is None else f"{number(value)}/s"


def seconds(value: float) -> str:
    """A time with its unit: 0.25 ms, 12 ms, 1.2 s, 75 s, 12 min."""
    if value < 0.00995:
        return f"{value * 1e3:.2g} ms"
    if value < 0.9995:
        return f"{value * 1e3:.0f} ms"
    if value < 9.95:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 599.5 else f"{value / 60:.0f} min"


def uptime(value: float) -> str:
    """1:02:03, or days from the second on."""
    days, rest = divmod(int(value), 86_400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return clock if not days else f"{days} d {clock}"


def sparkline(values: Sequence[float | None], ascii_only: bool) -> str:
    """One character per value, scaled to the largest; a blank where there is none."""
    ramp = ASCII_RAMP if ascii_only else RAMP
    most = max((value for value in values if value is not None), default=0.0)
    steps = len(ramp) - 1
    return "".join(
        " " if value is None else ramp[round(value / most * steps) if most else 0]
        for value in values
    )


def shares(counts: Sequence[int], width: int) -> list[int]:
    """Splits `width` in proportion to counts; they add up, and what is not zero is seen if it can.

    Without counts all of it is the last's.
    """
    total = sum(counts)
    if not total:
        return [0] * (len(counts) - 1) + [width]
    widths = [count * width // total for count in counts]
    widths = [max(cells, count > 0) for cells, count in zip(widths, counts, strict=True)]
    while (over := sum(widths) - width) != 0:
        widest = max(range(len(widths)), key=lambda i: widths[i])
        widths[widest] -= min(over, 1)
    return widths


def printable(text: str) -> str:
    """What a server says, without characters that would move the cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
