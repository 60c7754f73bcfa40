"""The real tokenizer path: two small tokenizers made here, read back through transformers."""

import random
import threading
import time
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from service.text import LONGEST_HELD, ModelText
from service.text_api import PromptError, load_text

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
)
SAMPLES = ["plain words, 12", "häé 漢字 🎉!", "  two  spaces ", "a\n\nb\tc", "e\u0301 combining"]


def save(tokenizer: Tokenizer, folder: Path, template: str | None) -> ModelText:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return ModelText(str(folder))


def specials(tokenizer: Tokenizer) -> None:
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>")])
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> ModelText:
    """One token per byte, as GPT-2 and Qwen spell them; a chat template that thinks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials(tokenizer)
    return save(tokenizer, tmp_path_factory.mktemp("bytewise"), TEMPLATE)


@pytest.fixture(scope="module")
def wordwise(tmp_path_factory: pytest.TempPathFactory) -> ModelText:
    """Words that begin with a space mark, as Llama 2 spells them; no chat template."""
    words = ["<unk>", "▁one", "▁two", "▁three", "four"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>")])
    return save(tokenizer, tmp_path_factory.mktemp("wordwise"), None)


def pieces(text: ModelText, prompt: list[int], ids: list[int]) -> list[str]:
    """Token by token, then the end."""
    detokenizer = text.detokenizer(prompt)
    return [*(detokenizer.feed([token]) for token in ids), detokenizer.flush()]


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_what_was_encoded_comes_back_in_whole_characters(
    bytewise: ModelText, sample: str, size: int
) -> None:
    ids = bytewise.encode(sample)[1:]
    detokenizer = bytewise.detokenizer([])
    found = [detokenizer.feed(ids[i : i + size]) for i in range(0, len(ids), size)]
    assert "".join(found) + detokenizer.flush() == sample
    assert not any("\ufffd" in piece for piece in found)


def test_plain_text_gets_the_beginning_token_and_chat_gets_one(bytewise: ModelText) -> None:
    begin = bytewise.encode("")[0]
    assert bytewise.encode("hi") == [begin, *bytewise.encode("hi")[1:]]
    chat = bytewise.encode_chat([{"role": "user", "content": "hi"}])
    assert chat == [*bytewise.encode("hi"), bytewise.think_start_id]
    assert chat.count(begin) == 1


def test_a_template_that_refuses_says_so_to_the_client(bytewise: ModelText) -> None:
    with pytest.raises(PromptError, match="no system turns here"):
        bytewise.encode_chat([{"role": "system", "content": "x"}])


def test_thinking_is_read_off_the_vocabulary(bytewise: ModelText, wordwise: ModelText) -> None:
    assert bytewise.thinking
    assert bytewise.think_end_id is not None
    assert bytewise.has_chat_template
    assert (wordwise.thinking, wordwise.think_end_id) == (False, None)
    assert not wordwise.has_chat_template


def test_special_tokens_leave_no_text_and_thinking_marks_do(bytewise: ModelText) -> None:
    begin = bytewise.encode("")[0]
    ids = [*bytewise.encode("a")[1:], begin, *bytewise.encode("</think>b")[1:], begin]
    assert "".join(pieces(bytewise, [], ids)) == "a</think>b"


def test_the_end_shows_half_a_character(bytewise: ModelText) -> None:
    ids = bytewise.encode("a漢")[1:-1]
    assert "".join(pieces(bytewise, [], ids)) == "a\ufffd"


def test_a_prompt_that_ends_within_a_character_does_no_harm(bytewise: ModelText) -> None:
    ids = bytewise.encode("漢字 ok")[1:]
    assert "".join(pieces(bytewise, ids[:2], ids[2:])).endswith("字 ok")


def test_nonsense_bytes_are_not_held_for_ever(bytewise: ModelText) -> None:
    """A random model draws bytes that never become a character."""
    random.seed(1)
    lone = bytewise.encode("é")[-1]
    detokenizer = bytewise.detokenizer([])
    silent = longest = 0
    for _ in range(2000):
        silent = 0 if detokenizer.feed([random.choice([lone, lone - 1])]) else silent + 1
        longest = max(longest, silent)
    assert longest < LONGEST_HELD


def test_the_first_word_knows_that_it_follows_the_prompt(wordwise: ModelText) -> None:
    one, two, three = (wordwise.encode(word)[0] for word in ("one", "two", "three"))
    assert "".join(pieces(wordwise, [one], [two, three])) == " two three"
    assert "".join(pieces(wordwise, [], [two, three])) == "two three"


def test_encoding_leaves_the_other_threads_running(bytewise: ModelText) -> None:
    """The event loop must not stand still while a long prompt is tokenised."""
    encoding = threading.Thread(target=bytewise.encode, args=("hello world " * 40_000,))
    encoding.start()
    ticks = 0
    while encoding.is_alive():
        time.sleep(0.001)
        ticks += 1
    assert ticks > 20


def test_a_model_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError)):
        load_text(str(tmp_path))
