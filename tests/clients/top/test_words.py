"""Short forms of numbers, and bars that add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.top import words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.04, "0"),
        (3.42, "3.4"),
        (3, "3"),
        (9.99, "10"),
        (12_345, "12,345"),
        (99_999, "99,999"),
        (123_456, "123k"),
        (999_499, "999k"),
        (999_999, "1.0M"),
        (4_500_000, "4.5M"),
        (123_456_789, "123M"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    assert words.number(value) == shown


@given(st.floats(0, 1e9))
def test_numbers_stay_short(value: float) -> None:
    assert len(words.number(value)) <= 6


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.00025, "0.25 ms"),
        (0.0099, "9.9 ms"),
        (0.012, "12 ms"),
        (0.9999, "1.0 s"),
        (1.26, "1.3 s"),
        (75, "75 s"),
        (720, "12 min"),
    ],
)
def test_times(value: float, shown: str) -> None:
    assert words.seconds(value) == shown


def test_uptimes() -> None:
    assert words.uptime(3723.9) == "1:02:03"
    assert words.uptime(2 * 86_400 + 61) == "2 d 0:01:01"


def test_sparklines_have_a_character_for_each_value_and_blanks_where_there_is_none() -> None:
    assert words.sparkline([0, 7, None, 14], ascii_only=False) == "▁▅ █"
    assert words.sparkline([0, 0], ascii_only=False) == "▁▁"
    assert words.sparkline([], ascii_only=False) == ""
    assert words.sparkline([0, None, 9], ascii_only=True).isascii()


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6), st.integers(6, 200))
def test_shares_fill_the_width_and_show_what_there_is(counts: list[int], width: int) -> None:
    found = words.shares(counts, width)
    assert sum(found) == width
    assert all(cells >= 0 for cells in found)
    if sum(counts):
        assert [cells > 0 for cells in found] == [count > 0 for count in counts]


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=4), st.integers(50, 200))
def test_shares_are_in_proportion(counts: list[int], width: int) -> None:
    total = sum(counts)
    for cells, count in zip(words.shares(counts, width), counts, strict=True):
        if total:
            assert abs(cells - count * width / total) <= len(counts)


def test_what_a_server_says_cannot_move_the_cursor() -> None:
    assert words.printable("a\x1b[2Jb\nc") == "a [2Jb c"
