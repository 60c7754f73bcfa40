"""Requests from arguments and tasks' settings; no lm_eval needed."""

from typing import Any

import pytest

from clients.errors import HarnessError
from clients.harness.settings import Arguments, Conversation, make_request, server_stops
from clients.settings import Chat, KvBudget, Message, Request, Sampling, Stopping

GREEDY: dict[str, Any] = {"until": ["\n\n"], "max_gen_toks": 50, "do_sample": False}


def request(generation: dict[str, Any], number: int = 0, **arguments: Any) -> Request:
    return make_request("1+1=", generation, Arguments.of(arguments), number)


def test_arguments_arrive_as_text_or_numbers() -> None:
    found = Arguments.of({"server": "a:1", "budget": "96", "timeout": 5, "concurrency": "3"})
    assert found == Arguments(server="a:1", budget=96, timeout=5.0, concurrency=3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bugdet": 96}, "bugdet.*allowed are server, model, budget"),
        ({"budget": "many"}, "budget"),
        ({"concurrency": 0}, "concurrency=0; want 1 or more"),
    ],
)
def test_wrong_arguments_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        Arguments.of(given)


def test_everything_reaches_the_request() -> None:
    found = request(GREEDY, 7, model="m", budget=96, floor=64, policy="h2o", seed=100)
    assert found == Request(
        "1+1=",
        model="m",
        kv_budget=KvBudget(max_tokens=96, min_tokens=64, policy="h2o"),
        sampling=Sampling(temperature=0.0, seed=107),
        stopping=Stopping(max_tokens=50, stop=("\n\n",)),
        stream_interval=8,
    )


def test_no_budget_is_not_the_default_budget() -> None:
    assert request(GREEDY, budget=0).to_proto().kv_budget.HasField("max_tokens")
    assert not request(GREEDY).to_proto().kv_budget.HasField("max_tokens")


def test_a_task_that_draws_is_not_greedy_and_no_two_requests_draw_alike() -> None:
    drawn = {**GREEDY, "do_sample": True, "temperature": 0.6, "top_p": 0.95}
    first, second = request(drawn, 0), request(drawn, 1)
    assert first.sampling == Sampling(temperature=0.6, top_p=0.95, seed=0)
    assert second.sampling.seed == 1


def test_greedy_wins_over_a_temperature() -> None:
    assert request({**GREEDY, "temperature": 0.7}).sampling.temperature == 0.0


def test_what_the_service_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(HarnessError, match=r"sets length_penalty, .* it has do_sample"):
        request({**GREEDY, "length_penalty": 2})
    with pytest.raises(HarnessError, match="sets num_beams"):
        request({**GREEDY, "num_beams": 4})
    assert request({**GREEDY, "num_beams": 1})


def test_the_server_gets_the_stops_that_it_takes() -> None:
    until = ["", "x" * 257, *(f"stop {i}" for i in range(20))]
    generation = {**GREEDY, "until": until}
    assert server_stops(generation, Arguments()) == tuple(f"stop {i}" for i in range(16))
    assert server_stops(generation, Arguments(think_end_token="</think>")) == ()


def test_a_conversation_is_text_to_lm_eval_and_messages_to_the_server() -> None:
    turns = [{"role": "system", "content": 'say "é"'}, {"role": "user", "content": "1\n2"}]
    prompt = Conversation.of(turns)
    assert isinstance(prompt, str)
    found = make_request(prompt, GREEDY, Arguments(), 0).prompt
    assert found == Chat((Message("system", 'say "é"'), Message("user", "1\n2")))
