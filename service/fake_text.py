"""The tokenizer of the fake model: one token per byte of UTF-8, ids above 255 have no text."""

import codecs
from collections.abc import Sequence

BYTES = 256


class FakeText:
    """Implements service.text_api.Text without transformers."""

    has_chat_template = True
    thinking = False
    think_end_id: int | None = None
    think_start_id: int | None = None

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        lines = [f"{message['role']}: {message['content']}\n" for message in messages]
        return self.encode("".join(lines) + "assistant: ")

    def detokenizer(self, prompt: Sequence[int]) -> "FakeDetokenizer":
        return FakeDetokenizer()


class FakeDetokenizer:
    """Implements service.text_api.Detokenizer."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Sequence[int]) -> str:
        try:
            data = bytes(ids)
        except ValueError:  # some have no text
            data = bytes(token for token in ids if token < BYTES)
        return self._decoder.decode(data)

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)
