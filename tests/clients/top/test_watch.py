"""Rates from differences of totals, whatever happens to the server in between."""

import itertools
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from clients.top.watch import HISTORY, Rates, Watch, rates
from tests.clients.top.builders import look, watch


def test_rates_are_differences_over_seconds() -> None:
    later = look(
        at=2.0,
        generation_tokens_total=1300,
        preemptions_total=3,
        tokens_pressed_total=17,
        tokens_evicted_total={"r_kv": 700, "h2o": 8},
    )
    found = rates(look(tokens_evicted_total={"r_kv": 500}), later)
    assert found == Rates(150.0, 0.5, 5.0, {"h2o": 4.0, "r_kv": 100.0})


def test_a_server_started_anew_has_no_rates_at_first() -> None:
    before = look(at=10.0)
    assert rates(before, look(at=11.0, generation_tokens_total=5)) is None
    assert rates(before, look(at=11.0, tokens_evicted_total={})) is None
    soon_busier = look(at=11.0, uptime=0.9, generation_tokens_total=10**6)
    assert rates(before, soon_busier) is None
    assert rates(
        soon_busier, look(at=12.0, uptime=1.9, generation_tokens_total=10**6 + 5)
    ) == Rates(5.0, 0.0, 0.0, {"r_kv": 0.0, "window": 0.0})


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=20))
def test_no_speed_is_ever_negative(totals: list[int]) -> None:
    found = watch(*(look(at=i, generation_tokens_total=t) for i, t in enumerate(totals)))
    assert len(found.speeds) == len(totals) - 1
    assert [speed is None for speed in found.speeds] == [
        later < before for before, later in itertools.pairwise(totals)
    ]
    assert all(speed is None or speed >= 0 for speed in found.speeds)


def test_it_stays_gone_since_the_first_miss_until_it_answers() -> None:
    found = watch(look(0.0), look(1.0))
    first, second = datetime(2026, 1, 1, 12, 0, 0), datetime(2026, 1, 1, 12, 0, 9)
    found.lose("refused", first)
    found.lose("still refused", second)
    assert (found.gone_since, found.trouble, found.rates) == (first, "still refused", None)
    found.add(look(20.0))
    assert (found.gone_since, found.trouble) == (None, "")
    assert list(found.speeds) == [0.0, None, None, 0.0]


def test_history_is_bounded() -> None:
    found = Watch("there")
    for i in range(3 * HISTORY):
        found.add(look(i))
    assert len(found.speeds) == HISTORY
