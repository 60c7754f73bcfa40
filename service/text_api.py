"""What the front needs of a tokenizer, and which one serves a model.

Prompts are encoded off the event loop by one thread, because tokenizers are not safe to share;
decoding is done on the loop, in the small steps in which tokens arrive.
"""

from collections.abc import Sequence
from typing import Protocol

from service.config import FAKE_MODEL


class PromptError(Exception):
    """The text cannot become a prompt; the message may be shown to the client."""


class Detokenizer(Protocol):
    """Turns the tokens of one output into text, a few at a time."""

    def feed(self, ids: Sequence[int]) -> str:
        """Text that became certain: valid Unicode, never half a character."""
        ...

    def flush(self) -> str:
        """What was held back, once no more tokens can come; half characters become U+FFFD."""
        ...


class Text(Protocol):
    """The tokenizer and chat template of the served model."""

    has_chat_template: bool
    thinking: bool  # whether its outputs may contain `</think>`
    think_end_id: int | None  # `</think>` as one token; None: it is found in the text
    think_start_id: int | None

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, with the model's beginning-of-text token."""
        ...

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, generation prompt included.

        Raises:
            PromptError: the template refuses these messages.
        """
        ...

    def detokenizer(self, prompt: Sequence[int]) -> Detokenizer:
        """For one output that continues `prompt`; special tokens leave no text."""
        ...


def load_text(model: str) -> Text:
    """The tokenizer of `model` as EngineConfig.model names it.

    Raises:
        OSError, ValueError: the model has no tokenizer that can be used here.
    """
    if model == FAKE_MODEL:
        from service.fake_text import FakeText

        return FakeText()
    from service.text import ModelText  # transformers takes seconds to import

    return ModelText(model)
