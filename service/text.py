"""Tokenizer and chat template of the served model; the one file here that knows transformers.

`encode` and `encode_chat` use transformers' tokenizer, whose ids callers compare with; decoding
uses a private copy of the `tokenizers` object underneath, so the two may run at the same time.
"""

import logging
from collections.abc import Sequence

from jinja2 import TemplateError
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer

from engine.logs import take_over
from service.control_tokens import THINKING, ControlTokens
from service.text_api import PromptError

log = logging.getLogger(__name__)

THINK_START, THINK_END = THINKING
LONGEST_HELD = 16  # tokens without certain text; a character takes at most four
CONTEXT_TOKENS = 4  # of the prompt, so that a first word knows whether it follows a space


class ModelText:
    """Implements service.text_api.Text for a local directory or a hub id."""

    def __init__(self, model: str) -> None:
        take_over("transformers", "huggingface_hub")
        self._tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ValueError(
                f"the tokenizer of {model!r} is a {type(self._tokenizer).__name__} without a "
                "tokenizer.json; convert it with transformers' save_pretrained first"
            )
        self._decoder = Tokenizer.from_str(backend.to_str())
        template = self._tokenizer.chat_template
        vocabulary = self._tokenizer.get_vocab()
        self.think_start_id: int | None = vocabulary.get(THINK_START)
        self.think_end_id: int | None = vocabulary.get(THINK_END)
        self.has_chat_template = template is not None
        self.thinking = self.think_end_id is not None or THINK_END in str(template)
        self._control = ControlTokens(backend, str(template or ""))

    def encode(self, text: str) -> list[int]:
        ids = list(self._tokenizer(text, verbose=False)["input_ids"])
        return self._control.encode(text) if self._control.typed_in(ids) else ids

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        contents, mark = self._control.defuse([message["content"] for message in messages])
        if mark:
            turns = zip(messages, contents, strict=True)
            messages = [{**message, "content": content} for message, content in turns]
            return self._control.encode_rendered(self._render(messages), mark)
        encoding = self._tokenizer(self._render(messages), add_special_tokens=False, verbose=False)
        return list(encoding["input_ids"])

    def _render(self, messages: list[dict[str, str]]) -> str:
        """The conversation as the model's template has it, in transformers' sandbox."""
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            if type(error) is not TemplateError:  # not what the template itself says
                log.warning("the chat template failed: %s", error)
                raise PromptError("the model's chat template cannot render these turns") from error
            raise PromptError(f"the model's chat template refused: {str(error)[:200]}") from error
        return str(text)

    def detokenizer(self, prompt: Sequence[int]) -> "ModelDetokenizer":
        return ModelDetokenizer(self._decoder, prompt)


class ModelDetokenizer:
    """Implements service.text_api.Detokenizer with `tokenizers`' DecodeStream."""

    def __init__(self, decoder: Tokenizer, prompt: Sequence[int]) -> None:
        self._decoder = decoder
        self._held: list[int] = []  # tokens whose text has not been returned
        self._stream = DecodeStream(
            ids=_context(decoder, list(prompt[-CONTEXT_TOKENS:])), skip_special_tokens=True
        )

    def feed(self, ids: Sequence[int]) -> str:
        # One at a time: of a list that ends in half a character nothing at all would come back.
        return "".join(map(self._feed, ids))

    def flush(self) -> str:
        text = self._decoder.decode(self._held, skip_special_tokens=True) if self._held else ""
        self._held.clear()
        self._stream = DecodeStream(skip_special_tokens=True)
        return text

    def _feed(self, token: int) -> str:
        self._held.append(token)
        try:
            text = self._stream.step(self._decoder, token)
        except Exception as error:  # the binding raises nothing narrower
            if "prefix" not in str(error).lower():
                raise
            return self.flush()  # the decoder rewrote text that is out already; start afresh
        if text is None:
            return self.flush() if len(self._held) >= LONGEST_HELD else ""
        self._held.clear()
        return text


def _context(decoder: Tokenizer, ids: list[int]) -> list[int]:
    """The longest tail of `ids` that is whole characters: a stream must not start within one."""
    while ids and "\ufffd" in decoder.decode(ids, skip_special_tokens=True):
        ids = ids[1:]
    return ids
