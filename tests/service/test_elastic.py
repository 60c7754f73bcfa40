"""Elastic budgets from a client's side: granted, pressed, counted, refused."""

import asyncio
from collections.abc import Callable

import grpc

from protos.sluice.v1 import sluice_pb2 as pb
from tests.service.harness import Answer, Harness, config, details, fake_tokens, ids_request
from tests.service.test_metrics import scrape

PROMPT = [10, 20, 30]


def test_an_elastic_budget_gives_way_and_says_so(launch: Callable[..., Harness]) -> None:
    harness = launch(config(0.002, kv_blocks=12, metrics_port=0))
    elastic = pb.KvBudget(max_tokens=160, min_tokens=48, policy="window")
    fixed = pb.KvBudget(max_tokens=96, policy="window")

    async def scenario() -> tuple[Answer, Answer, pb.Load]:
        first, second = await asyncio.gather(
            harness.answer(ids_request(PROMPT, 400, kv_budget=elastic)),
            harness.answer(ids_request(PROMPT, 400, kv_budget=fixed)),
        )
        return first, second, await harness.load()

    first, second, load = harness.run(scenario())
    assert first.ids[0] == second.ids[0] == fake_tokens(PROMPT, 400)
    accepted, usage = first.accepted, first.finished[0].usage
    assert (accepted.kv_budget, accepted.min_tokens, accepted.blocks_promised) == (160, 48, 3)
    assert second.accepted.min_tokens == second.accepted.kv_budget == 96
    assert 0 < usage.kv_tokens_pressed <= usage.kv_tokens_evicted
    assert second.finished[0].usage.kv_tokens_pressed == 0
    assert usage.preemptions == 0
    assert load.tokens_pressed_total == usage.kv_tokens_pressed
    assert load.tokens_elastic == 0
    samples = scrape(harness)
    assert samples["sluice_kv_tokens_pressed_total"] == usage.kv_tokens_pressed
    assert samples["sluice_kv_tokens_elastic"] == 0


def test_a_floor_that_cannot_hold_what_it_pins_is_refused(fast: Harness) -> None:
    budget = pb.KvBudget(max_tokens=512, min_tokens=30)
    error = fast.run(fast.refusal(ids_request(list(range(20)), 600, kv_budget=budget)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[0] == ["kv_budget.min_tokens"]
    assert "smallest floor that fits is 44" in error.details()


def test_a_floor_needs_a_budget_that_is_not_below_it(fast: Harness) -> None:
    for budget, words in (
        (pb.KvBudget(min_tokens=64), "set max_tokens as well"),
        (pb.KvBudget(min_tokens=64, max_tokens=48), "send at most 48"),
    ):
        error = fast.run(fast.refusal(ids_request(PROMPT, 600, kv_budget=budget)))
        assert details(error)[0] == ["kv_budget.min_tokens"]
        assert words in error.details()
