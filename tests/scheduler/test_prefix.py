"""A key names the salt and all tokens up to the end of its block."""

from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.prefix import block_keys

PROMPT = tuple(range(12))


def test_only_full_blocks_have_keys() -> None:
    assert [len(block_keys(PROMPT[:n], "", 4)) for n in (0, 3, 4, 7, 8, 12)] == [0, 0, 1, 1, 2, 3]


def test_keys_are_the_same_in_every_process() -> None:
    ids = (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
    expected = sha256(sha256(b"tenant").digest() + ids).digest()
    assert block_keys((1, 2), "tenant", 2) == [expected]


def test_a_longer_prompt_begins_with_the_same_keys() -> None:
    assert block_keys((*PROMPT, 99, 98), "", 4)[:3] == block_keys(PROMPT, "", 4)


def test_another_salt_changes_every_key() -> None:
    ours, theirs = block_keys(PROMPT, "a", 4), block_keys(PROMPT, "b", 4)
    assert not set(ours) & set(theirs)


def test_the_same_tokens_later_have_another_name() -> None:
    keys = block_keys((1, 2, 1, 2, 1, 2), "", 2)
    assert len(set(keys)) == 3


def test_ids_do_not_run_into_each_other() -> None:
    assert block_keys((1, 256), "", 2) != block_keys((257, 0), "", 2)
    assert block_keys((2**32, 0), "", 2) != block_keys((0, 2**32), "", 2)


@settings(deadline=None)
@given(st.lists(st.integers(0, 1), max_size=12), st.lists(st.integers(0, 1), max_size=12))
def test_keys_agree_exactly_as_far_as_the_prompts_do(a: list[int], b: list[int]) -> None:
    keys = zip(block_keys(tuple(a), "", 3), block_keys(tuple(b), "", 3), strict=False)
    for i, (mine, yours) in enumerate(keys):
        end = 3 * (i + 1)
        assert (mine == yours) == (a[:end] == b[:end])
