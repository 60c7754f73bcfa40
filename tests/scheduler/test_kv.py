"""The ledger: tables grow and shrink with the entries, and every promise can be kept."""

import pytest

from scheduler.kv import KvLedger
from scheduler.request import Request, Sequence
from tests.builders import BLOCK, make_request

PROMPT = list(range(10))  # two full blocks of four and a half


class _Ledger:
    """A ledger with the sequences that it admitted, checked after every call."""

    def __init__(self, blocks: int, prefix_cache: bool = True) -> None:
        self.kv = KvLedger(blocks, BLOCK, prefix_cache)
        self.running: list[Sequence] = []

    def admit(self, request: Request, watermark: int = 0, output: int = 0) -> Sequence | None:
        sequence = Sequence(request, output, list(request.prompt))
        if self.kv.admit(sequence, watermark):
            self.running.append(sequence)
        self.kv.check(self.running)
        return self.running[-1] if sequence in self.running else None

    def write(self, sequence: Sequence, tokens: int) -> bool:
        """Grows by `tokens`, and books them as written."""
        grown = self.kv.grow(sequence, tokens)
        if grown:
            sequence.computed += tokens
            sequence.kv_tokens += tokens
        self.kv.check(self.running)
        return grown

    def prefilled(self, request: Request) -> Sequence:
        """An admitted sequence whose prompt is written and published."""
        sequence = self.admit(request)
        assert sequence is not None
        assert self.write(sequence, len(request.prompt) - sequence.computed)
        self.kv.publish(sequence)
        self.kv.check(self.running)
        return sequence

    def release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.kv.release(sequence)
        self.kv.check(self.running)


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2)])
def test_a_started_block_counts(tokens: int, blocks: int) -> None:
    assert KvLedger(8, BLOCK, True).blocks_for(tokens) == blocks


def test_a_budget_promises_its_peak_and_takes_blocks_out_of_the_promise() -> None:
    ledger = _Ledger(8)
    sequence = ledger.admit(make_request(10, new=100, cap=20))
    assert sequence is not None
    assert (ledger.kv.promised, ledger.kv.spare, ledger.kv.pool.held) == (5, 3, 0)
    ledger.write(sequence, 10)
    assert (ledger.kv.promised, ledger.kv.spare, ledger.kv.pool.held) == (2, 3, 3)
    ledger.release(sequence)
    assert (ledger.kv.promised, ledger.kv.spare, ledger.kv.pool.held) == (0, 8, 0)


def test_the_peak_is_the_length_where_that_is_shorter() -> None:
    ledger = _Ledger(8)
    assert ledger.kv.needed_blocks(make_request(10, new=3, cap=100)) == 4


def test_without_a_budget_nothing_is_promised() -> None:
    ledger = _Ledger(8)
    sequence = ledger.admit(make_request(10, new=100))
    assert sequence is not None
    assert (ledger.kv.promised, ledger.kv.spare) == (0, 8)


def test_what_is_promised_is_not_for_those_without_a_budget() -> None:
    ledger = _Ledger(6)
    unbudgeted = ledger.prefilled(make_request(8, new=100))
    budgeted = ledger.admit(make_request(4, new=100, cap=12))
    assert budgeted is not None
    assert ledger.write(unbudgeted, 4)
    assert not ledger.write(unbudgeted, 1), "the last blocks are promised"
    assert len(unbudgeted.blocks) == 3, "a refused growth takes nothing"
    assert ledger.write(budgeted, 12)


def test_a_peak_that_does_not_fit_is_not_admitted_and_takes_nothing() -> None:
    ledger = _Ledger(6)
    ledger.admit(make_request(4, new=100, cap=12))
    assert ledger.admit(make_request(4, new=100, cap=16)) is None
    assert ledger.kv.promised == 3
    assert ledger.admit(make_request(4, new=100, cap=12)) is not None


def test_the_watermark_is_for_those_without_a_budget_only() -> None:
    ledger = _Ledger(4)
    assert ledger.admit(make_request(10, new=6), watermark=2) is None
    assert ledger.admit(make_request(10, new=6, cap=16), watermark=2) is not None


def test_shrinking_frees_whole_blocks_and_keeps_the_promise() -> None:
    ledger = _Ledger(8)
    sequence = ledger.admit(make_request(4, new=100, cap=20, recent=4, reclaim=9))
    assert sequence is not None
    ledger.write(sequence, 20)
    sequence.table_clean = 5
    head = sequence.blocks[:3]
    ledger.kv.shrink(sequence, 11)
    ledger.kv.check(ledger.running)
    assert sequence.blocks == head
    assert (sequence.kv_tokens, sequence.table_clean) == (11, 3)
    assert (ledger.kv.pool.held, ledger.kv.promised) == (3, 2)
    assert ledger.write(sequence, 9)


def test_dropping_takes_blocks_out_of_the_middle_and_keeps_the_promise() -> None:
    ledger = _Ledger(8)
    sequence = ledger.admit(make_request(4, new=100, cap=18, recent=4, reclaim=4, unit=BLOCK))
    assert sequence is not None
    ledger.write(sequence, 18)
    sequence.table_clean = 5
    table = list(sequence.blocks)
    ledger.kv.drop(sequence, [table[3], table[1]])
    ledger.kv.check(ledger.running)
    assert sequence.blocks == [table[0], table[2], table[4]]
    assert (sequence.kv_tokens, sequence.table_clean) == (10, 1)
    assert (ledger.kv.pool.held, ledger.kv.promised) == (3, 2)
    assert ledger.write(sequence, 8)


def test_beyond_its_floor_an_elastic_budget_takes_spare_blocks_and_gives_them_back() -> None:
    ledger = _Ledger(8)
    sequence = ledger.admit(make_request(4, new=100, cap=30, floor=12))
    other = ledger.admit(make_request(4, new=100, cap=12))
    assert sequence is not None
    assert other is not None
    assert ledger.kv.room(sequence) == 20
    assert ledger.write(sequence, 20)
    assert (ledger.kv.promised, ledger.kv.spare, ledger.kv.surplus(sequence)) == (3, 0, 2)
    assert not ledger.write(sequence, 1), "the other blocks are promised"
    assert ledger.write(other, 12)
    ledger.kv.shrink(sequence, 8)
    ledger.kv.check(ledger.running)
    assert (ledger.kv.promised, ledger.kv.spare, ledger.kv.surplus(sequence)) == (1, 2, 0)


def test_full_prompt_blocks_are_shared_and_the_started_one_is_not() -> None:
    ledger = _Ledger(8)
    first = ledger.prefilled(make_request(PROMPT))
    second = ledger.admit(make_request(PROMPT))
    assert second is not None
    assert second.blocks == first.blocks[:2]
    assert (second.computed, second.kv_tokens) == (8, 8)
    ledger.write(second, 2)
    assert second.blocks[2] != first.blocks[2]
    assert ledger.kv.pool.held == 4


def test_one_token_is_always_left_to_compute() -> None:
    ledger = _Ledger(8)
    ledger.prefilled(make_request(PROMPT[:8]))
    second = ledger.admit(make_request(PROMPT[:8]))
    assert second is not None
    assert second.computed == 4


def test_only_what_is_written_is_published() -> None:
    ledger = _Ledger(8)
    first = ledger.admit(make_request(PROMPT))
    assert first is not None
    ledger.write(first, 7)
    ledger.kv.publish(first)
    second = ledger.admit(make_request(PROMPT))
    assert second is not None
    assert second.computed == 4


def test_drawn_tokens_are_not_published() -> None:
    ledger = _Ledger(8)
    first = ledger.prefilled(make_request(PROMPT))
    first.tokens += [7, 8]
    ledger.write(first, 2)
    ledger.kv.publish(first)
    ledger.release(first)
    assert ledger.kv.pool.idle == 2


def test_shared_blocks_lower_the_promise_but_not_the_peak() -> None:
    ledger = _Ledger(8)
    ledger.prefilled(make_request(PROMPT, new=100, cap=20))
    assert ledger.kv.promised == 2
    second = ledger.admit(make_request(PROMPT, new=100, cap=20))
    assert second is not None
    assert ledger.kv.promised == 2 + 3
    assert ledger.admit(make_request(3, new=1, cap=4)) is None, "every block is held or promised"
    assert ledger.write(second, 12)


def test_an_idle_block_is_not_counted_twice_when_it_is_shared() -> None:
    ledger = _Ledger(6)
    ledger.release(ledger.prefilled(make_request(PROMPT)))
    assert (ledger.kv.pool.idle, ledger.kv.spare) == (2, 6)
    other = ledger.admit(make_request(2, new=100, cap=12))
    assert other is not None
    assert ledger.admit(make_request(PROMPT, new=100, cap=16, recent=2)) is None, (
        "needs 4 of the 3 left"
    )
    again = ledger.admit(make_request(PROMPT, new=2, cap=12))
    assert again is not None
    assert (ledger.kv.spare, again.computed) == (0, 8)
    assert ledger.write(other, 12)
    assert ledger.write(again, 4)


def test_the_tail_of_an_idle_prefix_gives_way_before_its_head() -> None:
    ledger = _Ledger(4)
    ledger.release(ledger.prefilled(make_request([*PROMPT, 10, 11])))
    assert ledger.kv.pool.idle == 3
    other = ledger.admit(make_request(8))
    assert other is not None
    ledger.write(other, 8)  # the free block and one idle one
    ledger.release(other)
    again = ledger.admit(make_request([*PROMPT, 10, 11]))
    assert again is not None
    assert again.computed == 8


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_a_prompt_that_may_be_evicted_is_private(prefix_cache: bool) -> None:
    ledger = _Ledger(16, prefix_cache)
    ledger.prefilled(make_request(PROMPT, n=2))
    private = make_request(PROMPT, new=100, cap=12, evict_prompt=True, n=2)
    first = ledger.prefilled(private)
    second = ledger.admit(private, output=1)
    assert second is not None
    assert second.computed == 0
    assert ledger.kv.pool.find(ledger.kv._shareable_keys(make_request(PROMPT, n=2))[0]) not in (
        first.blocks
    )


def test_without_the_cache_only_outputs_of_one_request_share() -> None:
    ledger = _Ledger(16, prefix_cache=False)
    ours = make_request(PROMPT, n=2)
    ledger.prefilled(ours)
    sibling = ledger.admit(ours, output=1)
    stranger = ledger.admit(make_request(PROMPT, n=2))
    assert sibling is not None
    assert stranger is not None
    assert (sibling.computed, stranger.computed) == (8, 0)


def test_a_prompt_that_nobody_can_share_is_not_hashed() -> None:
    ledger = _Ledger(16, prefix_cache=False)
    ledger.prefilled(make_request(PROMPT))
    assert not ledger.kv._keys


def test_nothing_of_an_ended_request_is_remembered() -> None:
    ledger = _Ledger(8)
    request = make_request(PROMPT)
    ledger.release(ledger.prefilled(request))
    ledger.kv.forget(request)
    ledger.kv.forget(request)
    assert not ledger.kv._keys


def test_check_finds_a_promise_that_cannot_be_kept() -> None:
    ledger = _Ledger(4)
    ledger.admit(make_request(4, new=100, cap=16))
    ledger.kv.pool.allocate()
    with pytest.raises(AssertionError):
        ledger.kv.check(ledger.running)
    ledger.kv.promised -= 1
    with pytest.raises(AssertionError):
        ledger.kv.check(ledger.running)
