"""One frame: one server in detail, or several with a line each. Made for 80 x 24.

A narrower terminal cuts lines at the right and stacks the two tables; a lower one shows fewer
classes.
"""

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from clients.top import words
from clients.top.watch import Watch
from protos.sluice.v1 import sluice_pb2 as pb

SIDE_BY_SIDE = 78  # columns that the two tables take
LINES_ABOVE, LINES_OF_LATENCY = 11, 5  # of a frame; classes have the rest
BAR = (("used", "█", "#"), ("promised", "▓", "+"), ("cached", "▒", "="), ("free", "░", "."))
BAR_STYLES = ("green", "yellow", "blue", "dim")


def frame(watches: Sequence[Watch], console: Console, interval: float, height: int) -> Group:
    """What to show now. `height` is how many lines there are for it."""
    ascii_only, width = console.options.ascii_only, console.width
    if len(watches) == 1:
        return Group(*_detail(watches[0], width, height, interval, ascii_only))
    return Group(_both(f"{len(watches)} servers", _clock(), width), _summary(watches, ascii_only))


def _detail(
    watch: Watch, width: int, height: int, interval: float, ascii_only: bool
) -> list[RenderableType]:
    if watch.look is None or watch.model is None:
        return [_both(watch.target, _clock(), width), _line(""), *_trouble(watch)]
    model, server, load = watch.model, watch.look.server, watch.look.load
    up = f"up {words.uptime(server.uptime_seconds)}"
    where = f"{model.architecture}, {model.dtype} on {model.device}, {model.kernels} kernels"
    restarts = f"{server.engine_restarts} engine restarts"
    lines: list[RenderableType] = [
        _both(f"{words.printable(model.name)} at {watch.target}, {up}", _clock(), width, "bold"),
        _both(words.printable(where), restarts, width),
        *(_trouble(watch) or [_line("")]),
        _speed(watch, width, interval, ascii_only),
        _running(watch, server, load),
        _line(""),
        *_pool(model, load, width, ascii_only),
        *_evictions(watch, load),
        _line(""),
    ]
    side = width >= SIDE_BY_SIDE
    room = height - LINES_ABOVE - (0 if side else LINES_OF_LATENCY) - 1
    tables = _classes(load, max(room, 1)), _latency(load)
    if side:
        both = Table.grid(padding=(0, 4, 0, 0))
        both.add_row(*tables)
        lines.append(both)
    else:
        lines += [tables[1], _line(""), tables[0]]
    return lines if watch.gone_since is None else [*lines[:3], Styled(Group(*lines[3:]), "dim")]


def _trouble(watch: Watch) -> list[Text]:
    if watch.gone_since is None:
        return []
    since = f"gone since {watch.gone_since:%H:%M:%S}: "
    return [Text.assemble((since, "bold red"), words.printable(watch.trouble), no_wrap=True)]


def _speed(watch: Watch, width: int, interval: float, ascii_only: bool) -> Text:
    room = max(width - 40, 5)
    shown = list(watch.speeds)[-room:]
    spark = words.sparkline(shown, ascii_only)
    most = max((speed for speed in shown if speed is not None), default=None)
    span = words.seconds(room * interval)
    now = words.EMPTY if watch.rates is None else words.number(watch.rates.tokens)
    peak = "" if most is None else f" most {words.number(most)} in {span}"
    return Text.assemble(
        "tokens/s  ",
        (f"{now:>7} ", "bold"),
        (f"{spark:>{room}}", "green"),
        (peak, "dim"),
        no_wrap=True,
    )


def _running(watch: Watch, server: pb.ServerInfo, load: pb.Load) -> Text:
    preemptions = None if watch.rates is None else watch.rates.preemptions
    return _line(
        f"running   {load.running:>7,} of {server.max_running:,}, waiting {load.waiting:,} of "
        f"{server.max_waiting:,}, preempted {words.number(load.preemptions_total)} "
        f"({words.rate(preemptions)})"
    )


def _pool(model: pb.ModelInfo, load: pb.Load, width: int, ascii_only: bool) -> list[Text]:
    """The bar, and the numbers under it. A promise is taken out of free blocks first."""
    total, used, promised = model.total_blocks, load.blocks_used, load.blocks_promised
    cached = min(load.blocks_cached, total - used - promised)
    parts = [used, promised, cached, total - used - promised - cached]
    percent = 100 * used / total if total else 0.0
    cells = words.shares(parts, max(width - 18, 5))
    bar = Text.assemble("KV pool   ", (f"{percent:>5.0f} % ", "bold"), no_wrap=True)
    legend = Text(" " * 10, no_wrap=True)
    styles = ("red" if percent > 95 else BAR_STYLES[0], *BAR_STYLES[1:])
    for (name, mark, ascii_mark), style, count, size in zip(BAR, styles, parts, cells, strict=True):
        letter = ascii_mark if ascii_only else mark
        bar.append(letter * size, style)
        legend.append(letter, style)
        legend.append(f" {name} {words.number(count)}  ")
    legend.append(f"of {words.number(total)}")
    if load.blocks_shared:
        legend.append(f", shared {words.number(load.blocks_shared)}")
    return [bar, legend]


def _evictions(watch: Watch, load: pb.Load) -> list[Text]:
    evicted = {} if watch.rates is None else watch.rates.evicted
    busiest = sorted(load.tokens_evicted_total, key=lambda name: (-evicted.get(name, 0), name))
    named = [f"{words.printable(name)} {words.rate(evicted.get(name))}" for name in busiest]
    pressed = words.rate(None if watch.rates is None else watch.rates.pressed)
    return [
        _line(f"evicted   {', '.join(named) or 'nothing so far'}"),
        _line(
            f"elastic   {words.number(load.tokens_elastic)} KV tokens above floors, pressed "
            f"{words.number(load.tokens_pressed_total)} ({pressed})"
        ),
    ]


def _classes(load: pb.Load, rows: int) -> Table:
    table = _table("KV budget", "running", "waiting", "blocks", "tokens")
    classes = list(load.budget_classes)
    cut = len(classes) > rows
    for counts in classes[: rows - cut]:
        _add_class(table, f"to {counts.max_tokens:,}" if counts.max_tokens else "none", [counts])
    if cut:
        rest = classes[rows - 1 :]
        _add_class(table, f"{len(rest)} others", rest)
    if not classes:
        idle = not load.running and not load.waiting
        table.add_row("nobody" if idle else "not told", *[words.EMPTY] * 4)
    return table


def _add_class(table: Table, name: str, classes: Sequence[pb.BudgetClass]) -> None:
    fields = ("running", "waiting", "blocks", "tokens_resident")
    sums = [sum(getattr(counts, field) for counts in classes) for field in fields]
    table.add_row(name, *map(words.number, sums))


def _latency(load: pb.Load) -> Table:
    table = _table("last minute", "p50", "p99")
    for name, times in (
        ("first token", load.first_token),
        ("between two", load.inter_token),
        ("request", load.request),
    ):
        shown = (times.p50, times.p99)
        table.add_row(name, *(words.seconds(t) if times.count else words.EMPTY for t in shown))
    return table


def _summary(watches: Sequence[Watch], ascii_only: bool) -> Table:
    table = _table("server", "model", "tok/s", "run", "wait", "pool", "gap p99", "")
    table.columns[1].justify = table.columns[-1].justify = "left"
    for watch in watches:
        if watch.look is None or watch.model is None or watch.gone_since is not None:
            table.add_row(Text(watch.target), *_gone(watch))
            continue
        load, gap = watch.look.load, watch.look.load.inter_token
        table.add_row(
            Text(watch.target),
            Text(words.printable(watch.model.name)),
            words.EMPTY if watch.rates is None else words.number(watch.rates.tokens),
            words.number(load.running),
            words.number(load.waiting),
            f"{100 * load.blocks_used / max(watch.model.total_blocks, 1):.0f}%",
            words.seconds(gap.p99) if gap.count else words.EMPTY,
            Text(words.sparkline(list(watch.speeds)[-12:], ascii_only), style="green"),
        )
    return table


def _gone(watch: Watch) -> list[RenderableType]:
    since = "" if watch.gone_since is None else f"{watch.gone_since:%H:%M:%S}"
    return [Text(f"gone since {since}", style="bold red"), *[words.EMPTY] * 5, ""]


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _both(left: str, right: str, width: int, style: str = "") -> Text:
    """One at each end of a line; the left one gives way."""
    text = Text(left, style=style, no_wrap=True)
    text.truncate(max(width - len(right) - 1, 0), overflow="ellipsis", pad=True)
    return text.append(f" {right}", "not bold")


def _clock() -> str:
    return f"{datetime.now():%H:%M:%S}"
