"""Control tokens that a caller types are text: they neither end a turn nor open another.

`tokenizers` finds added tokens wherever their text stands, so a message that holds `<|im_end|>`
would end its own turn and could speak as somebody else. Control tokens are those that the tokenizer
calls special, and those that the chat template writes itself; of the latter the marks of thinking
are not, because an assistant's turn may carry its thinking. Callers that want control tokens send
token ids.
"""

import json
import re
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

from service.text_api import PromptError

THINKING = ("<think>", "</think>")
FIRST_PRIVATE, LAST_PRIVATE = 0xE000, 0xF8FF  # characters of Unicode that no template asks for
UNSPELLABLE = (
    "it holds a control token of this model that cannot be spelt as text; leave it out, or send "
    "token_ids if control is what you mean"
)


class ControlTokens:
    """The control tokens of one tokenizer, and a twin of it that takes them for text."""

    def __init__(self, backend: Tokenizer, template: str) -> None:
        layout = json.loads(backend.to_str())
        self._ids: dict[str, int] = {}
        self._strips: dict[str, tuple[bool, bool]] = {}  # white space before it, after it
        for token in layout["added_tokens"]:
            text = token["content"]
            token["special"] |= text in template and text not in THINKING
            if token["special"]:
                self._ids[text] = token["id"]
                self._strips[text] = token["lstrip"], token["rstrip"]
        self._all = frozenset(self._ids.values())
        self._twin = Tokenizer.from_str(json.dumps(layout))
        self._twin.encode_special_tokens = True  # as text, that is
        self._framing = self._count(self._twin.encode("").ids)
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._beginnings = {text[:n] for text in self._ids for n in range(1, len(text))}
        self._longest_beginning = max(map(len, self._beginnings), default=0)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def typed_in(self, ids: Sequence[int]) -> bool:
        """Whether a plain text's ids hold more control tokens than the tokenizer frames it with."""
        return self._count(ids) > self._framing

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with its framing; control tokens within are text.

        Raises:
            PromptError: this tokenizer has no other spelling for one of them.
        """
        ids = self._twin.encode(text).ids
        if self._count(ids) > self._framing:
            raise PromptError(UNSPELLABLE)
        return list(ids)

    def defuse(self, contents: list[str]) -> tuple[list[str], str]:
        """The contents with every control token in them broken by a mark, and that mark.

        The mark is empty where they hold none, so that the usual way of encoding can be used.
        """
        used = set().union(*contents)
        marks = map(chr, range(FIRST_PRIVATE, LAST_PRIVATE + 1))
        mark = next((mark for mark in marks if mark not in used), None)
        if mark is None:
            raise PromptError("it holds every private character of Unicode; leave some out")
        defused = [self._defuse(content, mark) for content in contents]
        return defused, "" if defused == contents else mark

    def encode_rendered(self, text: str, mark: str) -> list[int]:
        """Ids of a rendered conversation: what the template wrote is control, the rest is text.

        Raises:
            PromptError: this tokenizer has no other spelling for a control token in the text.
        """
        ids: list[int] = []
        start, strip = 0, False
        for found in self._pattern.finditer(text):
            before, after = self._strips[found[0]]
            ids += self._segment(text[start : found.start()], mark, strip, before)
            ids.append(self._ids[found[0]])
            start, strip = found.end(), after
        return ids + self._segment(text[start:], mark, strip, False)

    def _segment(self, text: str, mark: str, left: bool, right: bool) -> list[int]:
        text = text.lstrip() if left else text
        text = text.rstrip() if right else text
        ids = self._twin.encode(text.replace(mark, ""), add_special_tokens=False).ids
        if self._count(ids):
            raise PromptError(UNSPELLABLE)
        return list(ids)

    def _defuse(self, content: str, mark: str) -> str:
        content = self._pattern.sub(lambda found: found[0][0] + mark + found[0][1:], content)
        bare = content.rstrip()  # a template may trim it
        # The longest end that the next turn's content could complete.
        lengths = range(min(self._longest_beginning, len(bare)), 0, -1)
        tail = next((n for n in lengths if bare[-n:] in self._beginnings), 0)
        if tail:
            cut = len(bare) - tail + 1
            content = content[:cut] + mark + content[cut:]
        normalised = self._normalise(content)
        if self._pattern.search(normalised):
            raise PromptError(UNSPELLABLE)
        return content

    def _normalise(self, text: str) -> str:
        normalizer = self._twin.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def _count(self, ids: Iterable[int]) -> int:
        return sum(map(self._all.__contains__, ids))
