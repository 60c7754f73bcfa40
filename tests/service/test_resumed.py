"""Requests that bring along the tokens of a broken stream."""

import grpc
import pytest

from protos.sluice.v1 import sluice_pb2 as pb
from tests.service.harness import Answer, Harness, details, eventually, fake_tokens, ids_request

PROMPT = [10, 20, 30]
WHOLE = fake_tokens(PROMPT, 50)


def decoded(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def resumed(count: int, max_tokens: int = 50, **fields: object) -> pb.GenerateRequest:
    request = ids_request(PROMPT, max_tokens, **fields)
    request.resumed.ids.extend(WHOLE[:count])
    return request


@pytest.mark.parametrize("count", [1, 7, 16, 49])
def test_it_goes_on_as_if_nothing_had_happened(fast: Harness, count: int) -> None:
    answer: Answer = fast.run(fast.answer(resumed(count)))
    assert answer.ids[0] == WHOLE[count:]
    assert not answer.messages[0].ids
    assert answer.text[0] == decoded(WHOLE)
    usage = answer.finished[0].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.resumed_tokens) == (3, 50, count)
    assert usage.kv_tokens_peak == 52
    assert answer.finished[0].reason == pb.FINISH_REASON_LENGTH
    fast.run(eventually(fast.is_idle))


def test_only_the_end_was_lost(fast: Harness) -> None:
    answer = fast.run(fast.answer(resumed(50)))
    assert not answer.ids.get(0)
    assert answer.text[0] == decoded(WHOLE)
    assert answer.finished[0].reason == pb.FINISH_REASON_LENGTH
    assert answer.finished[0].usage.completion_tokens == 50
    ended = resumed(5)
    ended.stopping.stop_token_ids.append(WHOLE[4])
    assert fast.run(fast.answer(ended)).finished[0].reason == pb.FINISH_REASON_STOP
    fast.run(eventually(fast.is_idle))


@pytest.mark.parametrize("count", [3, 20])
def test_stop_strings_across_the_break(fast: Harness, count: int) -> None:
    """The stop string is complete after the fourth token."""
    stop = decoded(WHOLE)[2:4]
    request = resumed(count)
    request.stopping.stop.append(stop)
    answer = fast.run(fast.answer(request))
    assert answer.text[0] == decoded(WHOLE)[:2]
    assert (answer.finished[0].stop, answer.finished[0].reason) == (stop, pb.FINISH_REASON_STOP)
    fast.run(eventually(fast.is_idle))


@pytest.mark.parametrize("evict_prompt", [False, True])
def test_a_budget_holds_while_the_old_tokens_are_read(fast: Harness, evict_prompt: bool) -> None:
    budget = pb.KvBudget(
        max_tokens=24, recent_tokens=4, reclaim_tokens=4, evict_prompt=evict_prompt
    )
    answer = fast.run(fast.answer(resumed(45, kv_budget=budget)))
    assert len(answer.ids[0]) == 5
    usage = answer.finished[0].usage
    assert usage.kv_tokens_peak <= 24
    assert usage.kv_tokens_evicted > 0
    fast.run(eventually(fast.is_idle))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"resumed": pb.TokenIds()}, "resumed.ids"),
        ({"resumed": pb.TokenIds(ids=[1] * 100)}, "resumed.ids"),
        ({"resumed": pb.TokenIds(ids=[1] * 51)}, "resumed.ids"),
        ({"resumed": pb.TokenIds(ids=[1, 999])}, "resumed.ids[1]"),
        ({"resumed": pb.TokenIds(ids=[1]), "sampling": pb.Sampling(n=2)}, "resumed"),
    ],
)
def test_what_cannot_go_on(fast: Harness, change: dict[str, object], field: str) -> None:
    error = fast.run(fast.refusal(ids_request(PROMPT, 50, **change)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[0] == [field]
