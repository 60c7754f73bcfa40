"""What a budget resolves to, and what the caller reads when it cannot be."""

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.budget import Budget, BudgetLimits, BudgetRequest, resolve
from scheduler.errors import InvalidRequest

NO_LIMITS = BudgetLimits()


def _resolve(
    cap: int | None, prompt: int = 10, new: int = 10_000, share: float = 1 / 8, **asked: object
) -> Budget | None:
    limits = asked.pop("limits", NO_LIMITS)
    assert isinstance(limits, BudgetLimits)
    return resolve(
        BudgetRequest(max_tokens=cap, **asked),  # type: ignore[arg-type]
        limits,
        prompt_tokens=prompt,
        max_new_tokens=new,
        recent_share=share,
    )


def _refusal(*args: object, **kwargs: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        _resolve(*args, **kwargs)  # type: ignore[arg-type]
    return caught.value


def _named(error: InvalidRequest) -> int | None:
    """The smallest budget or floor that a refusal names."""
    found = re.search(r"smallest (?:budget|floor) that fits is (\d+)", error.message)
    return int(found.group(1)) if found else None


@pytest.mark.parametrize(
    ("cap", "recent", "reclaim", "sinks"),
    [
        (48, 8, 16, 1),
        (64, 8, 16, 1),
        (128, 16, 16, 2),
        (256, 32, 16, 4),
        (512, 64, 32, 4),
        (1024, 128, 64, 4),
        (2048, 256, 128, 4),
        (5000, 625, 128, 4),
        (32768, 4096, 128, 4),
    ],
)
def test_defaults_scale_with_the_budget(cap: int, recent: int, reclaim: int, sinks: int) -> None:
    budget = _resolve(cap, prompt=10)
    assert budget is not None
    assert (budget.recent, budget.reclaim, budget.pinned) == (recent, reclaim, 10)
    assert budget.keep == cap - reclaim
    private = _resolve(cap, prompt=10, evict_prompt=True)
    assert private is not None
    assert (private.recent, private.reclaim, private.pinned) == (recent, reclaim, sinks)


def test_what_the_caller_says_goes_before_every_default() -> None:
    counts = {"recent_tokens": 3, "sink_tokens": 5, "reclaim_tokens": 7}
    alpha = {"alpha": 0.5}
    asked: dict[str, Any] = {**counts, "policy": "window", "policy_settings": alpha}
    budget = _resolve(40, evict_prompt=True, **asked)
    assert budget == Budget(40, "window", alpha, 3, 5, 7, evict_prompt=True)


def test_zero_recent_and_zero_sinks_are_values_not_absence() -> None:
    budget = _resolve(40, recent_tokens=0, sink_tokens=0, evict_prompt=True)
    assert budget is not None
    assert (budget.recent, budget.pinned) == (0, 0)


def test_sinks_beyond_the_prompt_are_pinned_too() -> None:
    budget = _resolve(64, prompt=3, sink_tokens=9)
    assert budget is not None
    assert budget.pinned == 9


def test_a_policy_may_ask_for_more_recent_tokens() -> None:
    budget = _resolve(1024, share=0.25)
    assert budget is not None
    assert budget.recent == 256


@pytest.mark.parametrize(
    ("limits", "asked", "cap"),
    [
        (BudgetLimits(), None, None),
        (BudgetLimits(), 0, None),
        (BudgetLimits(default_tokens=512), None, 512),
        (BudgetLimits(default_tokens=512), 0, None),
        (BudgetLimits(default_tokens=512), 1024, 1024),
        (BudgetLimits(max_tokens=2048), None, 2048),
        (BudgetLimits(default_tokens=512, max_tokens=2048), None, 512),
        (BudgetLimits(default_tokens=512, max_tokens=2048), 2048, 2048),
    ],
)
def test_the_operator_sets_default_and_ceiling(
    limits: BudgetLimits, asked: int | None, cap: int | None
) -> None:
    budget = _resolve(asked, limits=limits)
    assert (budget and budget.cap) == cap


@pytest.mark.parametrize("asked", [0, 2049, 10**9])
def test_nobody_gets_past_the_ceiling(asked: int) -> None:
    error = _refusal(asked, limits=BudgetLimits(max_tokens=2048))
    assert error.field == "kv_budget.max_tokens"
    assert error.message == f"got {asked}; this server allows 1 to 2048"


def test_a_default_above_the_ceiling_is_refused_when_it_is_set() -> None:
    with pytest.raises(ValueError, match="default_tokens is 5000, above max_tokens=2500"):
        BudgetLimits(default_tokens=5000, max_tokens=2500)


def test_a_budget_too_small_is_told_its_parts_and_the_smallest_that_fits() -> None:
    error = _refusal(100, prompt=90)
    assert error.field == "kv_budget.max_tokens"
    assert error.message == (
        "100 is too small for prompt 90 + recent 12 + reclaim 16; the smallest budget that fits is "
        "121, or set evict_prompt to let the prompt go too"
    )
    assert _resolve(100, prompt=90, evict_prompt=True) is not None


def test_a_budget_that_is_never_reached_may_be_as_small_as_it_likes() -> None:
    assert _resolve(12, prompt=10, new=2) is not None
    assert _named(_refusal(11, prompt=10, new=2)) == 12


def test_a_prompt_far_above_the_budget_is_told_the_smallest_too() -> None:
    named = _named(_refusal(10, prompt=10_000, new=20_000))
    assert named is not None
    assert _resolve(named, prompt=10_000, new=20_000) is not None


def test_a_ceiling_below_the_smallest_is_not_hidden() -> None:
    error = _refusal(100, prompt=90, limits=BudgetLimits(max_tokens=120))
    assert _named(error) is None
    assert "ask for fewer recent, sink or reclaim tokens, or set evict_prompt" in error.message


def test_a_floor_sets_the_defaults_because_they_must_fit_there() -> None:
    budget = _resolve(1024, min_tokens=128)
    assert budget is not None
    assert (budget.cap, budget.floor, budget.elastic) == (1024, 128, True)
    assert (budget.recent, budget.reclaim, budget.keep) == (16, 16, 1008)


def test_a_floor_at_the_cap_is_no_floor() -> None:
    assert _resolve(128, min_tokens=128) == _resolve(128)
    assert _resolve(128).floor == 128  # type: ignore[union-attr]


def test_a_floor_too_small_is_told_the_smallest_that_fits() -> None:
    error = _refusal(512, prompt=90, min_tokens=100)
    assert error.field == "kv_budget.min_tokens"
    assert error.message == (
        "100 is too small for prompt 90 + recent 12 + reclaim 16; the smallest floor that fits is "
        "121, or set evict_prompt to let the prompt go too"
    )
    assert _resolve(512, prompt=90, min_tokens=121) is not None


def test_where_the_cap_is_too_small_as_well_the_cap_is_told() -> None:
    error = _refusal(100, prompt=90, min_tokens=95)
    assert error.field == "kv_budget.max_tokens"
    assert _named(error) == 121


def test_a_floor_that_is_never_reached_may_be_as_small_as_it_likes() -> None:
    assert _resolve(64, prompt=10, new=2, min_tokens=12) is not None
    assert _refusal(64, prompt=10, new=3, min_tokens=12).field == "kv_budget.min_tokens"


@pytest.mark.parametrize(
    ("cap", "words"), [(None, "set max_tokens as well"), (0, "set max_tokens"), (48, "at most 48")]
)
def test_a_floor_needs_a_budget_above_it(cap: int | None, words: str) -> None:
    error = _refusal(cap, min_tokens=49)
    assert error.field == "kv_budget.min_tokens"
    assert words in error.message


def test_with_nothing_to_reclaim_only_the_whole_length_fits() -> None:
    assert _named(_refusal(64, prompt=10, new=90, reclaim_tokens=0)) == 100


@pytest.mark.parametrize(
    "asked", [{"recent_tokens": 2**32 - 1}, {"sink_tokens": 2**32 - 1}, {"share": 1.0}]
)
@pytest.mark.parametrize("cap", [64, 2**32 - 1])
def test_no_request_makes_the_engine_search_for_long(cap: int, asked: dict[str, float]) -> None:
    started = time.process_time()
    _refusal(cap, new=2**32, **asked)
    assert time.process_time() - started < 0.1


_asked = st.fixed_dictionaries(
    {},
    optional={
        "recent_tokens": st.integers(0, 200),
        "sink_tokens": st.integers(0, 200),
        "reclaim_tokens": st.integers(1, 200),
        "evict_prompt": st.booleans(),
        "share": st.sampled_from([0.0, 1 / 8, 1 / 4, 1 / 2, 0.9]),
    },
)


@settings(deadline=None)
@given(st.integers(1, 600), st.integers(1, 3000), st.integers(1, 3000), _asked)
def test_a_budget_holds_what_it_pins_or_names_the_smallest_that_does(
    cap: int, prompt: int, new: int, asked: dict[str, object]
) -> None:
    try:
        budget = _resolve(cap, prompt, new, **asked)  # type: ignore[arg-type]
    except InvalidRequest as error:
        named = _named(error)
        assert named is not None
        assert named > cap
        assert _resolve(named, prompt, new, **asked) is not None  # type: ignore[arg-type]
        _refusal(named - 1, prompt, new, **asked)
    else:
        assert budget is not None
        assert budget.cap == cap
        holds = budget.pinned + budget.recent <= budget.keep < cap
        assert holds or prompt + new <= cap
        assert budget.evict_prompt or budget.pinned >= prompt


@settings(deadline=None)
@given(st.integers(1, 600), st.data(), st.integers(1, 3000), st.integers(1, 3000), _asked)
def test_a_floor_holds_what_it_pins_or_names_the_smallest_that_does(
    cap: int, data: st.DataObject, prompt: int, new: int, asked: dict[str, Any]
) -> None:
    floor = data.draw(st.integers(1, cap))
    try:
        budget = _resolve(cap, prompt, new, min_tokens=floor, **asked)
    except InvalidRequest as error:
        named = _named(error)
        assert named is not None
        assert named > floor
        if error.field == "kv_budget.min_tokens":
            assert named <= cap
            assert _resolve(cap, prompt, new, min_tokens=named, **asked) is not None
            _refusal(cap, prompt, new, min_tokens=named - 1, **asked)
        else:
            assert named > cap
            assert _resolve(named, prompt, new, **asked) is not None
    else:
        assert budget is not None
        assert (budget.cap, budget.floor) == (cap, floor)
        holds = budget.pinned + budget.recent <= budget.floor - budget.reclaim < floor
        assert holds or prompt + new <= floor
