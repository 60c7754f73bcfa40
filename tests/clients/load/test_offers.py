"""Plans, and the requests made from them."""

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest

from clients.errors import LoadError
from clients.load.arrivals import Call, ClosedLoop, Rate, Trace
from clients.load.lengths import Length, parse_length
from clients.load.mix import Share, parse_mix
from clients.load.offers import Offer, Offers
from clients.load.plan import Plan, Window
from clients.settings import Chat, Stopping, TokenIds
from tests.clients.fake_sluice import model_info
from tests.clients.load.running import INFO, plan

LONG = Length("normal", 128)


def offers(wanted: Plan, count: int = 50, info: Any = INFO) -> list[Offer]:
    return list(islice(Offers(wanted, info), count))


def ids(offer: Offer) -> tuple[int, ...]:
    assert isinstance(offer.request.prompt, TokenIds)
    return offer.request.prompt.ids


def test_random_prompts_have_their_lengths_and_no_end_token() -> None:
    wanted = plan(prompt_tokens=parse_length("5:9"), output_tokens=parse_length("3:4"))
    found = offers(wanted, 300)
    assert {len(ids(offer)) for offer in found} == {5, 6, 7, 8, 9}
    assert {offer.request.stopping for offer in found} == {
        Stopping(max_tokens=tokens, ignore_eos=True) for tokens in (3, 4)
    }
    drawn = {token for offer in found for token in ids(offer)}
    assert drawn == set(range(256)), "257 ids, the last of which ends an answer"
    assert len({ids(offer) for offer in found}) == 300


def test_the_seed_decides_everything_and_arrivals_do_not() -> None:
    assert offers(plan(seed=1)) == offers(plan(seed=1))
    assert offers(plan(seed=1)) != offers(plan(seed=2))
    closed, open_ = offers(plan(seed=1), 6), offers(plan(seed=1, arrivals=Rate(2.0)))
    assert [offer.request for offer in closed] == [offer.request for offer in open_]
    assert [offer.at for offer in closed] == [None] * 6
    mixed = offers(plan(seed=1, mix=parse_mix(["budget=96", "budget=full"])))
    assert [ids(offer) for offer in mixed] == [ids(offer) for offer in offers(plan(seed=1))]


def test_a_mix_has_its_weights() -> None:
    wanted = plan(mix=parse_mix(["budget=96,policy=window,weight=3", "budget=full"]))
    found = Counter(offer.share.label for offer in offers(wanted, 4000))
    assert found["96 window"] / 4000 == pytest.approx(3 / 4, abs=0.03)
    assert set(found) == {"96 window", "full"}


def test_a_prefix_is_shared() -> None:
    found = offers(plan(prefix_tokens=6, prompt_tokens=Length("fixed", 8)), 20)
    assert len({ids(offer)[:6] for offer in found}) == 1
    assert len({ids(offer) for offer in found}) == 20
    short = offers(plan(prefix_tokens=6, prompt_tokens=Length("fixed", 4)), 2)
    assert [len(ids(offer)) for offer in short] == [4, 4]


def test_real_prompts_come_in_turn_and_may_stop() -> None:
    wanted = plan(prompts=("a", "b"), ignore_eos=False)
    assert [offer.request.prompt for offer in offers(wanted, 3)] == ["a", "b", "a"]
    assert offers(wanted, 1)[0].request.stopping == Stopping(max_tokens=128)
    chat = model_info(has_chat_template=True)
    assert offers(wanted, 1, chat)[0].request.prompt == Chat.user("a")


def test_a_trace_decides_what_it_names() -> None:
    calls = (Call(timestamp=0.0, input_length=3, output_length=2, budget=64), Call(timestamp=1.5))
    found = offers(plan(arrivals=Trace(calls), mix=(Share(0),)))
    assert [offer.at for offer in found] == [0.0, 1.5]
    assert [len(ids(offer)) for offer in found] == [3, 256]
    assert [offer.request.stopping.max_tokens for offer in found] == [2, 128]
    assert [offer.share for offer in found] == [Share(64), Share(0)]


def test_lengths_without_an_end_are_cut_to_the_model_and_counted() -> None:
    info = model_info(max_sequence_tokens=100, vocabulary_size=10)
    made = Offers(plan(prompt_tokens=parse_length("normal:90,40"), output_tokens=LONG), info)
    found = list(islice(made, 200))
    totals = np.array([len(ids(o)) + (o.request.stopping.max_tokens or 0) for o in found])
    assert totals.max() == 100
    assert made.cut > 100, "answers of 128 never fit"


def test_what_can_never_fit_is_refused() -> None:
    with pytest.raises(
        LoadError, match="answers of 4000 tokens do not fit script, which takes 4096"
    ):
        offers(plan(output_tokens=Length("fixed", 4000)))
    with pytest.raises(LoadError, match="script has no policy 'h2o'; it has r_kv, window"):
        offers(plan(mix=parse_mix(["budget=96,policy=h2o"])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requests": None}, "a run needs an end"),
        ({"requests": None, "arrivals": Rate(1)}, "a run needs an end"),
        ({"requests": 0}, "the window is empty"),
        ({"requests": -1}, "the window is empty"),
        ({"duration": 0.0}, "the window is empty"),
        ({"duration": float("inf")}, "got duration inf"),
        ({"warm_up": -1.0}, "got warm-up -1"),
        ({"warm_up": 1.0, "warm_up_requests": 1}, "not as both"),
        ({"arrivals": Rate(0.0)}, "got Rate.*a burstiness of at least 0.01"),
        ({"arrivals": Rate(float("inf"))}, "--concurrency N --requests N"),
        ({"arrivals": Rate(1.0, 0.0)}, "at least 0.01"),
        ({"max_concurrency": 2}, "is its own limit"),
        ({"arrivals": Rate(0.1), "requests": None, "duration": 1.0}, "no request would be"),
        ({"arrivals": Trace((Call(timestamp=0.0),)), "warm_up": 1.0}, "whole trace is warm-up"),
        ({"arrivals": Trace((Call(timestamp=0.0),)), "warm_up_requests": 1}, "whole trace"),
    ],
)
def test_plans_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        plan(**changes).check()


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({}, Window(0.0, None)),
        ({"duration": 5.0, "warm_up": 2.0}, Window(2.0, 7.0)),
        ({"duration": 5.0, "warm_up_requests": 2}, Window(None, None)),
        ({"arrivals": Rate(4.0), "warm_up": 1.0}, Window(1.0, 2.5)),
        ({"arrivals": Rate(4.0), "warm_up_requests": 2, "duration": 1.0}, Window(0.5, 1.5)),
        ({"arrivals": Rate(4.0), "requests": None, "duration": 9.0}, Window(0.0, 9.0)),
        (
            {"arrivals": Trace((Call(timestamp=0.0), Call(timestamp=3.0))), "warm_up_requests": 1},
            Window(3.0, None),
        ),
    ],
)
def test_windows(changes: dict[str, Any], window: Window) -> None:
    wanted = plan(**changes)
    wanted.check()
    assert wanted.window == window
    assert isinstance(wanted.arrivals, ClosedLoop) == (wanted.in_flight_limit == 3)
