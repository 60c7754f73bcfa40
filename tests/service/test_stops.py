"""Stop strings: found wherever the pieces are cut, held back only while they may still come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.stops import StopMatcher

LETTERS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3)


def feed(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(tuple(stops))
    text = ""
    for piece in pieces:
        match = matcher.feed(piece)
        text += match.text
        if match.stop is not None:
            return text, match.stop
    return text + matcher.flush(), None


def expected(stops: list[str], text: str) -> tuple[str, str | None]:
    """By trying every prefix: the first that ends in a stop string, the longest such."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(stops=STOPS, pieces=st.lists(LETTERS, max_size=8))
def test_every_cut_gives_the_same(stops: list[str], pieces: list[str]) -> None:
    assert feed(stops, pieces) == expected(stops, "".join(pieces))


@given(stops=STOPS, text=LETTERS)
def test_nothing_is_held_that_cannot_become_a_stop(stops: list[str], text: str) -> None:
    matcher = StopMatcher(tuple(stops))
    released = ""
    for i, character in enumerate(text, start=1):
        match = matcher.feed(character)
        if match.stop is not None:
            return
        released += match.text
        held = text[len(released) : i]
        assert text.startswith(released)
        assert not held or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        (["he", "llo w", "orld"], ("hel", "lo w")),
        (["hello"], ("hello", None)),
        (["lo ", "lo ", "lo w"], ("lo lo ", "lo w")),
        (["x", "END"], ("x", "END")),
    ],
)
def test_examples(pieces: list[str], answer: tuple[str, str | None]) -> None:
    assert feed(["lo w", "END"], pieces) == answer
