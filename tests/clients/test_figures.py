"""The figures beside the one of bars: what they draw is what the numbers say."""

import random
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from clients.environment import environment
from clients.report import captions, figure, frontier, lengths
from clients.report.gallery import MEAN, file_names
from clients.report.numbers import Line, lines, summarise
from clients.report.sources import Source
from clients.report.style import line_style
from clients.sweep.plan import Settings
from clients.sweep.run import Manifest
from tests.clients.builders import row
from tests.clients.reports import made_up

PNG = b"\x89PNG\r\n\x1a\n"


def line(speed: float, accuracy: float, **changes: object) -> Line:
    fields: dict[str, object] = {
        "model": "m",
        "budget": 96,
        "policy": "r_kv",
        "cells": {},
        "n": 10,
        "pass_at_1": accuracy,
        "stderr": 0.02,
        "pass_at_k": {},
        "majority": None,
        "tokens_per_second": speed,
        "share_never_reached": 0.0,
    }
    return Line(**fields | changes)  # type: ignore[arg-type]


PLACES = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=8)


@given(PLACES)
def test_efficient_are_those_that_nothing_beats(places: list[tuple[int, int]]) -> None:
    found = frontier.efficient([line(speed, accuracy) for speed, accuracy in places])
    expected = {
        one
        for one in places
        if not any(o != one and o[0] >= one[0] and o[1] >= one[1] for o in places)
    }
    drawn = [(one.tokens_per_second, one.pass_at_1) for one in found]
    assert set(drawn) == expected
    assert drawn == sorted(drawn, reverse=True), "from the fastest on"
    accuracies = [accuracy for _, accuracy in drawn]
    assert accuracies == sorted(accuracies)  # type: ignore[type-var]


def test_the_frontier_draws_every_line_of_the_table() -> None:
    found = lines(summarise(made_up()))
    [axes] = frontier.draw(found, "caption").figure.axes
    points = {
        (float(x), float(y))
        for drawn in axes.lines
        if drawn.get_marker() in ("o", "s", "*") and drawn.get_markersize() < 15
        for x, y in zip(drawn.get_xdata(), drawn.get_ydata(), strict=True)
    }
    assert points == {(one.tokens_per_second, 100 * (one.pass_at_1 or 0.0)) for one in found}
    labels = sorted(text.get_text() for text in axes.texts)
    assert labels == ["192", "192", "96", "96", "full"]


def test_labels_of_the_frontier_do_not_cover_each_other() -> None:
    generator = random.Random(5)
    crowd = [
        line(600 + 40 * i + generator.random(), 0.5 - 0.01 * i, budget=2500 + 500 * i, policy=p)
        for p in ("r_kv", "dynts")
        for i in range(6)
    ]
    sheet = frontier.draw(crowd, "caption")
    renderer = FigureCanvasAgg(sheet.figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in sheet.figure.axes[0].texts]
    assert len(boxes) == 12
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_the_means_are_a_panel_per_model_on_one_right_axis() -> None:
    rows = made_up() + made_up(model="pocket-qwen")
    axes = figure.draw_means(lines(summarise(rows)), "caption").figure.axes
    titles = [found.get_title() for found in axes if found.get_title()]
    assert titles == ["pocket-llama | mean of 2 tasks", "pocket-qwen | mean of 2 tasks"]
    heights = sorted(round(patch.get_height()) for patch in axes[0].patches)  # type: ignore[attr-defined]
    assert heights == [25, 50, 50, 75, 100]
    assert axes[1].get_ylim() == axes[3].get_ylim()


def test_values_stand_clear_of_the_line_of_speeds() -> None:
    """The line runs through the height of the values, which then stand above it."""
    rows = [row(f"{i}", budget=b, policy="r_kv", end=1.0) for b in (96, 128) for i in range(4)]
    front = figure.draw(summarise(rows), "caption").figure.axes[1]
    top = front.get_ylim()[1]
    for text, speed in zip(front.texts, front.lines[0].get_ydata(), strict=True):
        height = 118 * float(speed) / top
        assert not height - 1 < text.xy[1] < height + 1  # type: ignore[attr-defined]


def test_bars_are_of_the_first_policies_and_the_caption_names_the_others() -> None:
    names = [f"p{i}" for i in range(6)]
    summaries = summarise([row(budget=96, policy=name) for name in names])
    [bars, _] = figure.draw(summaries, "caption").figure.axes
    assert len(bars.patches) == figure.MOST == 4
    manifest = Manifest(
        run="r", created="", settings=Settings(), environment=environment(), servers={}
    )
    source = Source(Path("run"), manifest, [row()])
    assert "Not shown: p4, p5; see" in captions.tasks(summaries, [source])


def test_lengths_are_median_and_nine_tenths_and_shares_in_per_cent() -> None:
    rows = [
        row(f"{i}", budget=96, policy="r_kv", completion_tokens=100 * (i + 1),
            correct=False, status="truncated" if i < 3 else "no_answer" if i < 5 else "ok")
        for i in range(10)
    ]  # fmt: skip
    above, below = lengths.draw(summarise(rows), "caption").figure.axes
    assert [list(drawn.get_ydata()) for drawn in above.lines] == [[550.0], [pytest.approx(910.0)]]
    assert [list(drawn.get_ydata()) for drawn in below.lines] == [
        [pytest.approx(30.0)],
        [pytest.approx(20.0)],
    ]


def test_answers_of_no_tokens_can_be_drawn() -> None:
    nothing = summarise([row(completion_tokens=0, end=0.0, correct=False, status="timeout")])
    assert lengths.render(nothing, "caption").png.startswith(PNG)
    assert figure.render(nothing, "caption").png.startswith(PNG)


@pytest.mark.parametrize("tasks", [("a",), ("a", "b", "c"), tuple("abcdef")])
def test_every_number_of_tasks_can_be_drawn(tasks: tuple[str, ...]) -> None:
    summaries = summarise(made_up(tasks))
    assert lengths.render(summaries, "caption").png.startswith(PNG)
    assert frontier.render(lines(summaries), "caption").png.startswith(PNG)


def test_policies_differ_in_mark_and_dash_not_only_in_colour() -> None:
    styles = [line_style(index) for index in range(13)]
    assert len({style["marker"] for style in styles}) == len(styles)
    for left, right in pairwise(styles):
        assert left["linestyle"] != right["linestyle"]


def test_no_two_models_write_the_same_file() -> None:
    names = file_names(["org/a", "org-a", MEAN, "org a"])
    assert list(names.values()) == ["org-a", "org-a-2", "mean-2", "org-a-3"]
