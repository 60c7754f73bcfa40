"""Counts the tokens of an output that were thinking: those up to and including `</think>`."""

from collections.abc import Sequence

from service.text_api import Text

END = "</think>"


class ThinkingCounter:
    """Fed with an output's tokens in order; with their text as well while `needs_text`."""

    def __init__(self, text: Text, *, over: bool) -> None:
        """`over` says that the prompt ends the thinking (`ended_in`)."""
        self._thinks = text.thinking
        self._end_id = text.think_end_id
        self._over = over
        self._seen = 0
        self._end: int | None = None  # tokens up to and including the end of thinking
        self._tail = ""

    @property
    def needs_text(self) -> bool:
        """Whether tokens must come one by one with their text."""
        return self._thinks and self._end_id is None and self._end is None

    def add(self, ids: Sequence[int], text: str = "") -> None:
        if self._thinks and self._end is None:
            if self._end_id is None:
                seen = self._tail + text
                self._tail = seen[1 - len(END) :]
                if END in seen:
                    self._end = self._seen + len(ids)
            elif self._end_id in ids:
                self._end = self._seen + ids.index(self._end_id) + 1
        self._seen += len(ids)

    @property
    def tokens(self) -> int:
        """Thinking tokens so far: all while it has not ended, none for models without any."""
        if self._end is not None:
            return self._end
        return self._seen if self._thinks and not self._over else 0


def ended_in(prompt: list[int], text: Text) -> bool:
    """Whether the prompt itself ends the thinking, as templates do that turn it off."""
    start, end = text.think_start_id, text.think_end_id
    if end is None or end not in prompt:
        return False
    backwards = prompt[::-1]
    return start not in prompt or backwards.index(end) < backwards.index(start)
