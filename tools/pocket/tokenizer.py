"""The pocket models' tokenizer: every byte is a token, and so is every look-up key.

Byte b has id b, so any text can be encoded and round-trips. Keys are AddedTokens rather than BPE
merges: transformers' AutoTokenizer replaces the pre-tokenizer for some model types, which would
change how merges apply, but leaves added tokens alone.
"""

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
THINK, END_THINK, BOXED = "<think>", "</think>", "\\boxed{"
BOS_ID, EOS_ID, PAD_ID, THINK_ID = range(256, 260)
"""Right behind the bytes."""
VOCAB_SIZE = 384
"""Rounded up from 360, a kind size for matrix products; the last ids are never produced."""


def byte_alphabet() -> list[str]:
    """The printable stand-in of each byte in byte-level BPE (GPT-2's table): index is the byte."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def keys() -> list[str]:
    """Every look-up key the families write; one token each, with its value right behind it."""
    tables = [f"{letter}{digit}>" for letter in "fghk" for digit in range(10)]
    numbers = [f"{index:02}>" for index in range(48)]
    columns = [f"{letter}>" for letter in "abcdefghij"]
    return tables + numbers + columns


def build_tokenizer() -> Tokenizer:
    """Byte-level, no merges, no normalisation; special tokens are never added on their own."""
    vocab = {character: byte for byte, character in enumerate(byte_alphabet())}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in (BOS, EOS, PAD)]
    # Not special: `</think>` must stay visible when special tokens are skipped in decoding.
    visible = [THINK, END_THINK, BOXED, *keys()]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in visible])
    return tokenizer
