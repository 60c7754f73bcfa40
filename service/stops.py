"""Finds stop strings in text that arrives in pieces, and holds back what may still become one.

Knows nothing of tokens. Linear in the text whatever the stop strings are: each runs its own
Knuth-Morris-Pratt automaton.
"""

from typing import NamedTuple


class Match(NamedTuple):
    """Outcome of feeding a piece of text."""

    text: str  # certain: before a stop string, and no beginning of one
    stop: str | None  # the stop string that is now complete; nothing may follow


class StopMatcher:
    """Matches `stops` in the concatenation of all pieces fed to it."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._borders = [_borders(stop) for stop in stops]
        self._matched = [0] * len(stops)  # characters of each stop that the text now ends with
        self._held = ""

    def feed(self, piece: str) -> Match:
        """Takes the next piece; of stops that end on one character, the longest counts."""
        text = self._held + piece
        for end, character in enumerate(piece, start=len(self._held) + 1):
            stop = self._advance(character)
            if stop is not None:
                self._held = ""
                return Match(text[: end - len(stop)], stop)
        certain = len(text) - max(self._matched, default=0)
        self._held = text[certain:]
        return Match(text[:certain], None)

    def flush(self) -> str:
        """What was held back, once no more text can come."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> str | None:
        found: str | None = None
        for i, stop in enumerate(self._stops):
            matched = self._matched[i]
            while matched and stop[matched] != character:
                matched = self._borders[i][matched]
            matched += stop[matched] == character
            self._matched[i] = matched
            if matched == len(stop) and (found is None or len(stop) > len(found)):
                found = stop
        return found


def _borders(stop: str) -> list[int]:
    """For each prefix length, the longest proper prefix that is also a suffix of that prefix."""
    borders = [0] * (len(stop) + 1)
    matched = 0
    for length in range(2, len(stop) + 1):
        while matched and stop[matched] != stop[length - 1]:
            matched = borders[matched]
        matched += stop[matched] == stop[length - 1]
        borders[length] = matched
    return borders
