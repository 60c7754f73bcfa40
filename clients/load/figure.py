"""The figures of a load test: what happened when, and how the latencies are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clients.load.numbers import labels
from clients.load.record import Row
from clients.load.runner import Result
from clients.load.series import held_back, in_flight, tokens_per_second
from clients.report.sheet import svg_of
from clients.report.style import BLUE, GREY, INK, NOTE, ORANGE, RC, line_style, tidy

if TYPE_CHECKING:  # matplotlib takes a second to import, and most commands draw nothing
    from matplotlib.axes import Axes

WIDTH, PANEL, LOW = 10.5, 1.9, 3.6  # inches
MANY = 2000  # points; more are drawn as an image, which keeps the page small
POINTS = 400  # of a curve of counts over time
DISTRIBUTIONS = {
    "ttft": "time to first token (ms)",
    "tpot": "time per further token (ms)",
    "e2el": "whole answer (ms)",
}


def series(result: Result) -> bytes:
    """Tokens, requests, the KV pool and first tokens against the time."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = [_tokens, _requests, *([_pool] if result.server else []), _first_tokens]
    with mpl.rc_context(RC):
        figure = Figure(figsize=(WIDTH, PANEL * len(panels) + 0.6), layout="constrained")
        all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for draw, axes in zip(panels, all_axes, strict=True):
            draw(axes, result)
            _finish(axes)
            _shade(axes, result)
        all_axes[0].set_xlim(0, _end(result))
        all_axes[-1].set_xlabel("seconds from the start")
        _name_spans(all_axes[0], result)
        return svg_of(figure)


def distributions(result: Result) -> bytes:
    """Share of requests within a latency, one line per class of the mix."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(RC):
        figure = Figure(figsize=(WIDTH, LOW), layout="constrained")
        found = _by_share(result, within_window=True)
        for axes, (metric, label) in zip(
            figure.subplots(1, len(DISTRIBUTIONS), sharey=True), DISTRIBUTIONS.items(), strict=True
        ):
            _distribution(axes, found, metric)
            _objective(axes, result, metric)
            axes.set_xlabel(label)
            axes.locator_params(axis="x", nbins=6)
            axes.set_ylim(0, 1.02)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1], ["0", "25", "50", "75", "90", "100"])
            _finish(axes)
        figure.axes[0].set_ylabel("requests within it (%)")
        if len(found) > 1:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(
                handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8.5
            )
        return svg_of(figure)


def _distribution(axes: Axes, found: Mapping[str, Sequence[Row]], metric: str) -> None:
    largest = 0.0
    for index, (share, rows) in enumerate(found.items()):
        values = [1000 * v for row in rows if (v := row.latencies[metric]) is not None]
        if values:
            axes.ecdf(values, label=share, linewidth=1.6, **{**line_style(index), "marker": None})
            largest = max(largest, *values)
    axes.set_xlim(0, 1.1 * largest or 1.0)


def _objective(axes: Axes, result: Result, metric: str) -> None:
    """A dotted line, or a word where it lies beyond everything measured."""
    end = axes.get_xlim()[1]
    for slo in result.plan.slos:
        if slo.metric != metric:
            continue
        beyond, left = slo.milliseconds > end, slo.milliseconds < end / 3
        if not beyond:
            axes.axvline(slo.milliseconds, color=INK, linewidth=1.2, linestyle=":")
        axes.annotate(
            f"SLO {slo.milliseconds:g}" + (" beyond" if beyond else ""),
            (min(slo.milliseconds, end), 0.03), xytext=(3 if left else -3, 0),
            ha="left" if left else "right",
            xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8,
        )  # fmt: skip


def _tokens(axes: Axes, result: Result) -> None:
    at, speed = tokens_per_second(result.rows, 0.0, _end(result))
    if len(at):
        axes.stairs(speed, np.append(at, _end(result)), color=BLUE, linewidth=1.6)
    axes.set_ylabel("tokens per second")


def _requests(axes: Axes, result: Result) -> None:
    at = np.linspace(0.0, _end(result), POINTS)
    axes.plot(at, in_flight(result.rows, at), color=INK, linewidth=1.6, label="in flight")
    if result.plan.max_concurrency is not None:
        held = held_back(result.rows, at)
        axes.plot(at, held, color=GREY, linestyle=":", linewidth=1.8, label="held back by client")
    polled = [sample.at for sample in result.server]
    if polled:
        running = [sample.running for sample in result.server]
        waiting = [sample.waiting for sample in result.server]
        axes.plot(polled, running, color=BLUE, linestyle="--", marker="o", markersize=2.5,
                  linewidth=1.2, label="running on the server")  # fmt: skip
        axes.plot(polled, waiting, color=ORANGE, linestyle="-.", marker="s", markersize=2.5,
                  linewidth=1.2, label="waiting on the server")  # fmt: skip
    axes.set_ylabel("requests")
    _legend(axes)


def _pool(axes: Axes, result: Result) -> None:
    server = result.server
    at = [sample.at for sample in server]
    whole = np.array([max(s.blocks_used + s.blocks_free + s.blocks_cached, 1) for s in server])
    used = 100 * np.array([s.blocks_used for s in server]) / whole
    promised = 100 * np.array([s.blocks_used + s.blocks_promised for s in server]) / whole
    axes.plot(at, promised, color=GREY, linestyle="--", linewidth=1.4, label="used or promised")
    axes.plot(at, used, color=BLUE, linewidth=1.6, label="used")
    lost = np.diff([s.preemptions_total for s in server])
    if lost.any():
        moments = np.array(at[1:])[lost > 0]
        axes.plot(moments, np.full(len(moments), 2.0), "v", color=ORANGE, markersize=6,
                  label=f"preemptions ({lost.sum()} in all)")  # fmt: skip
    axes.set_ylim(0, 105)
    axes.set_ylabel("KV pool (%)")
    _legend(axes)


def _first_tokens(axes: Axes, result: Result) -> None:
    largest = 0.0
    found = _by_share(result, within_window=False)
    for index, (share, rows) in enumerate(found.items()):
        points = [(r.scheduled, 1000 * t) for r in rows if (t := r.latencies["ttft"]) is not None]
        if points:
            x, y = zip(*points, strict=True)
            largest = max(largest, *y)
            look = {**line_style(index), "linestyle": "", "markersize": 3}
            look["fillstyle"] = "full" if index % 2 == 0 else "none"
            axes.plot(x, y, label=share, rasterized=len(points) > MANY, **look)
    axes.set_ylim(0, 1.08 * largest or 1.0)
    axes.set_ylabel("TTFT (ms)")
    if len(found) > 1:
        _legend(axes)


def _by_share(result: Result, *, within_window: bool) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {label: [] for label in labels(result)}
    for row in result.rows:
        if row.ok and (row.counted or not within_window):
            found[row.share].append(row)
    return found


def _end(result: Result) -> float:
    """Of the run, in seconds; never 0."""
    return max((row.end for row in result.rows), default=0.0) or 1.0


def _spans(result: Result) -> Sequence[tuple[str, float, float]]:
    start, end = result.window
    spans = [("warm-up", 0.0, start), ("drain", end, _end(result))]
    return [span for span in spans if span[2] - span[1] > 0.005 * _end(result)]


def _shade(axes: Axes, result: Result) -> None:
    for _, start, end in _spans(result):
        axes.axvspan(start, end, color="#EFEFEF", linewidth=0, zorder=0)


def _name_spans(axes: Axes, result: Result) -> None:
    for name, start, end in _spans(result):
        axes.annotate(
            name, ((start + end) / 2, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", ha="center", va="bottom", fontsize=8, color=NOTE,
        )  # fmt: skip


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, handlelength=2.2
    )


def _finish(axes: Axes) -> None:
    tidy(axes)
    axes.set_ylim(bottom=0)
