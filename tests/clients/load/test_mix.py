"""Classes of requests as text."""

import pytest

from clients.errors import LoadError
from clients.load.mix import Share, parse_mix
from clients.settings import KvBudget


def test_shares() -> None:
    texts = ["budget=2500,policy=r_kv,weight=3", "budget=full", " floor=64 , budget=96 "]
    assert parse_mix(texts) == (
        Share(2500, "r_kv", None, 3.0),
        Share(0),
        Share(96, None, 64),
    )


def test_none_is_the_servers_default() -> None:
    [share] = parse_mix([])
    assert share.kv_budget == KvBudget()
    assert share.label == "default budget"


def test_what_a_share_asks_for_and_is_called() -> None:
    full, tight, elastic = parse_mix(
        ["budget=full", "budget=96,policy=h2o", "budget=96,policy=h2o,floor=64"]
    )
    assert full.kv_budget == KvBudget(max_tokens=0)
    assert tight.kv_budget == KvBudget(max_tokens=96, policy="h2o")
    assert elastic.kv_budget == KvBudget(max_tokens=96, policy="h2o", min_tokens=64)
    assert [share.label for share in (full, tight, elastic)] == [
        "full", "96 h2o", "96 floor 64 h2o"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "96", "budget", "budget=", "budget=0", "budget=-1", "budget=1.5", "budget=all", "size=3",
     "weight=0", "weight=-1", "weight=nan", "weight=inf", "budget=1,budget=2", "floor=0",
     "budget=96,", "floor=x"],
)  # fmt: skip
def test_what_is_no_share_is_named(text: str) -> None:
    with pytest.raises(LoadError, match="--mix"):
        parse_mix([text])


def test_a_share_may_come_once() -> None:
    with pytest.raises(LoadError, match="'96' twice"):
        parse_mix(["budget=96,weight=2", "budget=96"])
