"""The rounds of one plan, where several need blocks: nobody is overlooked or asked in vain."""

from scheduler.kv import KvLedger
from scheduler.plan import Totals
from scheduler.request import Sequence
from scheduler.rounds import Rounds, oldest_blocks
from tests.builders import BLOCK, make_request


class _Step:
    """A full pool of sequences that hold so many entries each, about to decode."""

    def __init__(self, spare: int, **held: int) -> None:
        self.kv = KvLedger(200, BLOCK, prefix_cache=False)
        self.sequences: dict[str, Sequence] = {}
        for name, tokens in held.items():
            request = make_request(8, new=100, cap=90, floor=20, reclaim=8)
            sequence = Sequence(request, 0, [*request.prompt, *range(tokens - 7)])
            assert self.kv.admit(sequence, 0)
            assert self.kv.grow(sequence, tokens)
            sequence.kv_tokens = sequence.computed = tokens
            self.sequences[name] = sequence
        while self.kv.spare > spare:
            self.kv.pool.allocate()
        self.rounds = Rounds(self.kv, Totals(), self.sequences.values(), oldest_blocks)

    def __getitem__(self, name: str) -> Sequence:
        return self.sequences[name]

    def surplus(self) -> list[int]:
        return [self.kv.surplus(sequence) for sequence in self.sequences.values()]


def test_who_grew_in_this_plan_can_be_pressed_in_it() -> None:
    step = _Step(spare=0, long=26, short=20)
    assert step.rounds.press(1), "the long one gives two blocks, for it loses eight entries"
    assert (step.kv.spare, step.surplus()) == (2, [0, 0])
    assert step.rounds.reserve(step["short"], 1) == 1
    assert (step.kv.spare, step.surplus()) == (1, [0, 1])
    assert step.rounds.press(1)
    assert step["short"] in step.rounds.evictions
    assert not step.rounds.press(1)


def test_what_growth_added_counts_towards_what_can_be_pressed() -> None:
    step = _Step(spare=1, long=24, short=20)
    assert not step.rounds.press(3)
    assert step.rounds.reserve(step["short"], 1) == 1
    assert step.rounds.press(2)
    assert step.surplus() == [0, 0]
    assert step.kv.spare == 2


def test_the_longest_gives_all_it_can_before_the_next_is_pressed() -> None:
    step = _Step(spare=0, a=61, b=46, c=31)
    assert step.rounds.press(13)
    assert [step[name].kv_tokens for name in "abc"] == [19, 38, 31]
    assert list(step.rounds.evictions) == [step["a"], step["b"]]
    assert step.kv.spare == 13


def test_the_longest_compacts_itself_even_if_others_could_be_pressed() -> None:
    step = _Step(spare=0, long=40, short=30)
    assert step.rounds.reserve(step["long"], 1) == 1
    assert list(step.rounds.evictions) == [step["long"]]
    assert (step["long"].kv_tokens, step["short"].kv_tokens) == (32, 30)


def test_a_prompt_being_computed_does_not_press_who_holds_less() -> None:
    step = _Step(spare=0, short=30, prefilling=40)
    prefilling = step["prefilling"]
    prefilling.tokens += range(20)
    prefilling.length += 20
    assert step.rounds.reserve(prefilling, 20) == 8
    assert list(step.rounds.evictions) == [prefilling]


def test_of_equals_the_last_in_order_is_pressed() -> None:
    step = _Step(spare=0, first=32, second=32)
    assert step.rounds.press(1)
    assert list(step.rounds.evictions) == [step["second"]]


def test_a_round_in_two_parts_is_one_eviction_and_one_round() -> None:
    step = _Step(spare=0, only=60)
    assert step.rounds.press(2)
    assert step.rounds.press(3)
    (eviction,) = step.rounds.evictions.values()
    usage = step["only"].usage
    assert (eviction.tokens, eviction.keep) == (60, 39)
    assert len(eviction.blocks) == 15
    assert (usage.eviction_rounds, usage.kv_tokens_evicted, usage.kv_tokens_pressed) == (1, 21, 21)
