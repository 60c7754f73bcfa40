"""Objectives."""

import pytest

from clients.errors import LoadError
from clients.load.slo import Slo, parse_slos


def test_objectives_as_text() -> None:
    assert parse_slos(["ttft:500", "e2e:30000", "tpot:0.5"]) == (
        Slo("ttft", 500),
        Slo("e2el", 30000),
        Slo("tpot", 0.5),
    )
    assert parse_slos([]) == ()


@pytest.mark.parametrize("texts", [["ttft"], ["itl:5"], ["ttft:"], ["ttft:x"], ["ttft:-1"],
                                   ["ttft:nan"], ["e2e:5", "e2el:6"], ["500"]])  # fmt: skip
def test_what_is_no_objective_is_named(texts: list[str]) -> None:
    with pytest.raises(LoadError, match="want METRIC:MILLISECONDS, each metric once"):
        parse_slos(texts)


def test_the_limit_itself_holds() -> None:
    latencies = {"ttft": 0.5, "tpot": None, "e2el": 2.0}
    assert Slo("ttft", 500).holds(latencies)
    assert not Slo("ttft", 499.9).holds(latencies)
    assert Slo("tpot", 0).holds(latencies), "one token has no time per further token"
    assert not Slo("e2el", 1000).holds(latencies)
