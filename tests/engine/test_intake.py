"""From a message to a request: the model's limits, policies and budgets, told by field."""

import time
from dataclasses import replace

import msgspec
import pytest

from engine.config import EngineConfig
from engine.fake import END_TOKEN, FakeRunner
from engine.intake import build_request
from engine.messages import ModelInfo, Submit, Tenant
from scheduler.budget import BudgetLimits, BudgetRequest
from scheduler.config import SchedulerConfig
from scheduler.errors import InvalidRequest, PolicyUnavailable
from scheduler.request import Sampling

LIMIT = 100  # tokens of a sequence


def _model(blocks: int = 1000, **budgets: int) -> ModelInfo:
    config = EngineConfig(
        kv_blocks=blocks,
        max_sequence_tokens=LIMIT,
        budgets=BudgetLimits(**budgets),  # type: ignore[arg-type]
        scheduler=SchedulerConfig(block_size=4),
    )
    return FakeRunner(config).describe()


def _submit(prompt: int = 10, **fields: object) -> Submit:
    return Submit(key=1, prompt=[5] * prompt, sampling=Sampling(), **fields)  # type: ignore[arg-type]


def _refusal(submit: Submit, model: ModelInfo) -> tuple[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        build_request(submit, model)
    return caught.value.field, caught.value.message


def test_what_the_caller_said_arrives() -> None:
    before = time.monotonic()
    sampling = Sampling(temperature=0.5, seed=9)
    submit = Submit(7, [1, 2], sampling, n=3, max_new_tokens=4, priority=2, salt="s", deadline=8.0)
    request = build_request(submit, _model())
    assert (request.key, request.prompt, request.sampling) == (7, (1, 2), sampling)
    assert (request.n, request.max_new_tokens, request.priority) == (3, 4, 2)
    assert (request.salt, request.deadline, request.budget) == ("s", 8.0, None)
    assert before <= request.arrival <= time.monotonic()


@pytest.mark.parametrize("prompt", [0, LIMIT, LIMIT + 1])
def test_a_prompt_without_room_to_draw_is_refused(prompt: int) -> None:
    assert _refusal(_submit(prompt), _model()) == (
        "input",
        f"the prompt has {prompt} tokens; allowed are 1 to 99, which leaves one token to draw",
    )


@pytest.mark.parametrize("prompt", [1, LIMIT - 1])
def test_without_a_length_an_output_may_fill_the_model(prompt: int) -> None:
    assert build_request(_submit(prompt), _model()).max_new_tokens == LIMIT - prompt


def test_a_length_beyond_the_model_is_refused() -> None:
    assert build_request(_submit(10, max_new_tokens=90), _model()).max_new_tokens == 90
    field, message = _refusal(_submit(10, max_new_tokens=91), _model())
    assert field == "stopping.max_tokens"
    assert message == "got 91; the prompt of 10 tokens leaves 90 of the model's 100"


def test_without_length_and_budget_an_output_asks_for_no_more_than_the_tenants_part() -> None:
    submit = _submit(tenant=Tenant("a", max_kv_tokens=30))
    assert build_request(submit, _model()).most_tokens == 30
    assert build_request(submit, _model(blocks=6)).most_tokens == 24


def test_without_length_and_budget_an_output_asks_for_no_more_than_the_pool() -> None:
    assert build_request(_submit(10), _model(blocks=5)).max_new_tokens == 10
    assert build_request(_submit(30), _model(blocks=5)).max_new_tokens == 1, "refused later"
    assert build_request(_submit(10, max_new_tokens=90), _model(blocks=5)).max_new_tokens == 90


@pytest.mark.parametrize(
    ("ignore_eos", "stops", "ends"),
    [
        (False, [], {END_TOKEN}),
        (False, [7, 8], {END_TOKEN, 7, 8}),
        (True, [7], {7}),
        (True, [], set()),
    ],
)
def test_end_tokens_are_the_models_and_the_callers(
    ignore_eos: bool, stops: list[int], ends: set[int]
) -> None:
    submit = _submit(stop_token_ids=stops, ignore_eos=ignore_eos)
    assert build_request(submit, _model()).end_ids == ends


def test_whole_blocks_round_what_a_budget_pins_and_reclaims() -> None:
    asked = {"recent_tokens": 3, "reclaim_tokens": 1}
    whole = BudgetRequest(max_tokens=19, policy="paged_eviction", **asked)  # type: ignore[arg-type]
    budget = build_request(_submit(prompt=9, budget=whole), _model()).budget
    assert budget is not None
    assert (budget.unit, budget.reclaim, budget.keep) == (4, 4, 15)
    for changes, smallest in (
        ({"max_tokens": 18}, "budget that fits is 19"),
        (
            {"max_tokens": 40, "min_tokens": 18},
            "floor that fits is 19",
        ),
    ):
        field, message = _refusal(_submit(prompt=9, budget=replace(whole, **changes)), _model())
        assert field == f"kv_budget.{list(changes)[-1]}"
        assert f"reclaim 4, in whole blocks of 4; the smallest {smallest}" in message
    moving = build_request(_submit(prompt=9, budget=replace(whole, policy="window")), _model())
    assert moving.budget is not None
    assert (moving.budget.unit, moving.budget.reclaim) == (1, 1)


def test_an_unknown_policy_is_refused_and_the_known_are_named() -> None:
    submit = _submit(budget=BudgetRequest(policy="best"))
    assert _refusal(submit, _model()) == (
        "kv_budget.policy",
        "got 'best'; this server has r_kv, window, paged_eviction",
    )


def test_a_budget_is_resolved_with_the_policys_share() -> None:
    request = build_request(_submit(budget=BudgetRequest(max_tokens=80, policy="window")), _model())
    budget = request.budget
    assert budget is not None
    assert (budget.cap, budget.policy, budget.recent, budget.pinned) == (80, "window", 10, 10)
    assert request.max_new_tokens == 90, "a budget does not shorten the answer"


def test_the_operators_default_and_ceiling_are_in_force() -> None:
    model = _model(default_tokens=60, max_tokens=70)
    default = build_request(_submit(), model).budget
    assert default is not None
    assert (default.cap, default.policy) == (60, "r_kv")
    field, message = _refusal(_submit(budget=BudgetRequest(max_tokens=71)), model)
    assert (field, message) == ("kv_budget.max_tokens", "got 71; this server allows 1 to 70")


def test_a_budget_too_small_for_the_prompt_is_refused_unless_it_is_never_reached() -> None:
    small = BudgetRequest(max_tokens=40)
    field, message = _refusal(_submit(30, budget=small), _model())
    assert field == "kv_budget.max_tokens"
    assert "the smallest budget that fits is 54" in message
    assert build_request(_submit(30, max_new_tokens=10, budget=small), _model()).budget


def test_a_policy_that_lacks_what_it_needs_is_refused_where_it_would_be_used() -> None:
    model = _model()
    lacking = msgspec.structs.replace(model.policies[0], unavailable="make it: sluice calibrate")
    model = msgspec.structs.replace(model, policies=[lacking, *model.policies[1:]])
    budget = BudgetRequest(max_tokens=60, policy=lacking.name)
    with pytest.raises(PolicyUnavailable, match=rf"policy {lacking.name} .*sluice calibrate"):
        build_request(_submit(budget=budget), model)
    assert build_request(_submit(budget=BudgetRequest(max_tokens=60, policy="window")), model)
    assert build_request(_submit(), model).budget is None, "nobody ranks without a budget"
