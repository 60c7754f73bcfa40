"""Inference.Generate from a client's side: what comes, and that it is exactly right."""

import asyncio
from itertools import pairwise

import grpc
import pytest

from protos.sluice.v1 import sluice_pb2 as pb
from service.config import BudgetLimits
from tests.service.harness import Harness, config, details, fake_tokens, ids_request

PROMPT = [10, 20, 30]


def decoded(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def test_exactly_the_models_tokens_arrive(fast: Harness) -> None:
    answer = fast.run(fast.answer(ids_request(PROMPT, 50, request_id="mine")))
    expected = fake_tokens(PROMPT, 50)
    assert answer.ids == {0: expected}
    assert answer.text == {0: decoded(expected)}
    assert answer.accepted.request_id == "mine"
    assert answer.accepted.prompt_tokens == 3
    assert answer.accepted.max_tokens == 50
    assert answer.accepted.kv_budget == 0
    assert answer.finished[0].reason == pb.FINISH_REASON_LENGTH
    usage = answer.finished[0].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens) == (3, 50, 0)
    assert usage.kv_tokens_peak == 52  # the last token's KV is never written


@pytest.mark.parametrize(
    ("request_", "prompt"),
    [
        (pb.GenerateRequest(text="héllo"), list("héllo".encode())),
        (
            pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])),
            list(b"user: hi\nassistant: "),
        ),
    ],
)
def test_text_and_chat_are_tokenised(
    fast: Harness, request_: pb.GenerateRequest, prompt: list[int]
) -> None:
    request_.stopping.max_tokens = 9
    answer = fast.run(fast.answer(request_))
    assert answer.accepted.prompt_tokens == len(prompt)
    assert answer.ids[0] == fake_tokens(prompt, 9)


def test_all_outputs_of_a_request_arrive(fast: Harness) -> None:
    answer = fast.run(fast.answer(ids_request(PROMPT, 20, sampling=pb.Sampling(n=5))))
    assert answer.ids == dict.fromkeys(range(5), fake_tokens(PROMPT, 20))
    assert sorted(answer.finished) == list(range(5))


def test_many_streams_do_not_mix(fast: Harness) -> None:
    async def scenario() -> None:
        prompts = [[i, 255 - i] for i in range(100)]
        answers = await asyncio.gather(*(fast.answer(ids_request(p, 30)) for p in prompts))
        for prompt, answer in zip(prompts, answers, strict=True):
            assert answer.ids[0] == fake_tokens(prompt, 30)

    fast.run(scenario())


def test_a_budget_changes_what_is_held_and_not_the_fakes_tokens(fast: Harness) -> None:
    request = ids_request(PROMPT, 300, kv_budget=pb.KvBudget(max_tokens=64, policy="window"))
    answer = fast.run(fast.answer(request))
    assert answer.ids[0] == fake_tokens(PROMPT, 300)
    accepted, usage = answer.accepted, answer.finished[0].usage
    assert (accepted.kv_budget, accepted.policy, accepted.reclaim_tokens) == (64, "window", 16)
    assert accepted.blocks_promised == 4
    assert usage.kv_tokens_peak == 64
    assert usage.kv_tokens_evicted == 16 * usage.eviction_rounds > 0
    assert usage.kv_tokens_final + usage.kv_tokens_evicted == 302


def test_whole_blocks_go_where_the_policy_says_so(fast: Harness) -> None:
    budget = pb.KvBudget(max_tokens=70, policy="paged_eviction", reclaim_tokens=17)
    answer = fast.run(fast.answer(ids_request(PROMPT, 300, kv_budget=budget)))
    assert answer.ids[0] == fake_tokens(PROMPT, 300)
    assert answer.accepted.reclaim_tokens == 32
    usage = answer.finished[0].usage
    assert usage.kv_tokens_peak == 70
    assert usage.kv_tokens_evicted == 32 * usage.eviction_rounds > 0


def test_a_seed_is_chosen_and_returned_or_taken(fast: Harness) -> None:
    async def seed(sampling: pb.Sampling) -> int:
        return (await fast.answer(ids_request(PROMPT, 1, sampling=sampling))).accepted.seed

    async def scenario() -> None:
        assert await seed(pb.Sampling(seed=2**64 - 1)) == 2**64 - 1
        assert await seed(pb.Sampling(seed=0)) == 0
        assert await seed(pb.Sampling()) != await seed(pb.Sampling())

    fast.run(scenario())


def test_logprobs_come_one_per_token(fast: Harness) -> None:
    answer = fast.run(fast.answer(ids_request(PROMPT, 12, sampling=pb.Sampling(logprobs=1))))
    for message in answer.messages:
        assert [entry.top[0].id for entry in message.logprobs] == list(message.ids)
    plain = fast.run(fast.answer(ids_request(PROMPT, 12)))
    assert not any(message.logprobs for message in plain.messages)


def test_a_stop_token_ends_an_output_and_is_returned(fast: Harness) -> None:
    expected = fake_tokens(PROMPT, 20)
    request = ids_request(PROMPT, 100)
    request.stopping.stop_token_ids.append(expected[9])
    answer = fast.run(fast.answer(request))
    end = expected.index(expected[9]) + 1
    assert answer.ids[0] == expected[:end]
    assert answer.finished[0].reason == pb.FINISH_REASON_STOP
    assert answer.finished[0].usage.completion_tokens == end


def test_a_stop_string_spans_tokens_and_ends_every_output(slow: Harness) -> None:
    """Every token of the fake model is one byte, so any longer string spans several."""
    expected = fake_tokens(PROMPT, 200)
    start = next(i for i in range(5, 150) if all(token < 128 for token in expected[i : i + 3]))
    stop = decoded(expected[start : start + 3])
    end = decoded(expected).index(stop)
    request = ids_request(PROMPT, 400, sampling=pb.Sampling(n=2))
    request.stopping.stop.extend([stop, "never in the text"])
    answer = slow.run(slow.answer(request))
    for output in range(2):
        assert answer.text[output] == decoded(expected)[:end]
        assert answer.ids[output] == expected[: start + 3]
        finished = answer.finished[output]
        assert (finished.reason, finished.stop) == (pb.FINISH_REASON_STOP, stop)
        assert finished.usage.completion_tokens == start + 3
        assert finished.usage.kv_tokens_final < 300, "the engine went on for nobody"


def test_no_message_has_half_a_character(slow: Harness) -> None:
    """Looks for a prompt whose answer has a two-byte character, then reads it token by token."""

    def pairs(prompt: list[int]) -> list[int]:
        tokens = fake_tokens(prompt, 40)
        return [
            i
            for i, (lead, tail) in enumerate(pairwise(tokens))
            if 0xC2 <= lead <= 0xDF and 0x80 <= tail <= 0xBF
        ]

    prompt = next([i, j] for i in range(250) for j in range(250) if pairs([i, j]))
    answer = slow.run(slow.answer(ids_request(prompt, 40)))
    tokens = fake_tokens(prompt, 40)
    assert answer.text[0] == decoded(tokens)
    lead = pairs(prompt)[0]
    sent = 0
    for message in answer.messages:
        sent += len(message.ids)
        if sent == lead + 1:
            assert not message.text.endswith("\ufffd")


@pytest.mark.parametrize("interval", [1, 7, 1024])
def test_messages_hold_at_least_the_stream_interval(fast: Harness, interval: int) -> None:
    request = ids_request(PROMPT, 200, stream_interval=interval, sampling=pb.Sampling(n=2))
    answer = fast.run(fast.answer(request))
    for output in range(2):
        sizes = [len(m.ids) for m in answer.messages if m.output_index == output]
        assert sum(sizes) == 200
        assert all(size >= interval for size in sizes[:-1])
        assert answer.ids[output] == fake_tokens(PROMPT, 200)


def test_silence_is_broken_by_progress(launch) -> None:
    harness = launch(config(0.02, heartbeat_seconds=0.2))
    request = ids_request(PROMPT, 80, stream_interval=1024)
    answer = harness.run(harness.answer(request))
    assert answer.progress
    assert [(p.waiting, p.running) for p in answer.progress] == [(0, 1)] * len(answer.progress)
    counts = [p.completion_tokens for p in answer.progress]
    assert counts == sorted(counts)
    assert counts[-1] > 0
    assert answer.ids[0] == fake_tokens(PROMPT, 80)


def test_the_queue_shows_in_progress(slow: Harness) -> None:
    async def scenario() -> None:
        long = [asyncio.create_task(slow.answer(ids_request(PROMPT, 60))) for _ in range(4)]
        await asyncio.sleep(0.2)
        answer = await slow.answer(ids_request(PROMPT, 1))
        await asyncio.gather(*long)
        assert (answer.progress[0].waiting, answer.progress[0].running) == (1, 0)

    slow.run(scenario())


@pytest.mark.parametrize(
    ("change", "code", "fields"),
    [
        ({"token_ids": pb.TokenIds()}, grpc.StatusCode.INVALID_ARGUMENT, ["token_ids.ids"]),
        ({"text": "x" * 2048}, grpc.StatusCode.INVALID_ARGUMENT, ["text"]),
        (
            {"stopping": pb.Stopping(max_tokens=2046)},
            grpc.StatusCode.INVALID_ARGUMENT,
            ["stopping.max_tokens"],
        ),
        (
            {"kv_budget": pb.KvBudget(max_tokens=12), "stopping": pb.Stopping(max_tokens=99)},
            grpc.StatusCode.INVALID_ARGUMENT,
            ["kv_budget.max_tokens"],
        ),
        (
            {"sampling": pb.Sampling(n=65), "priority": 500},
            grpc.StatusCode.INVALID_ARGUMENT,
            ["priority", "sampling.n"],
        ),
        ({"model": "gpt"}, grpc.StatusCode.NOT_FOUND, []),
    ],
)
def test_refusals_carry_status_and_fields(
    fast: Harness, change: dict, code: grpc.StatusCode, fields: list[str]
) -> None:
    request = pb.GenerateRequest(**{"token_ids": pb.TokenIds(ids=PROMPT)} | change)
    error = fast.run(fast.refusal(request))
    assert error.code() == code
    assert details(error) == (fields, None)


def test_the_servers_ceiling_is_named(launch) -> None:
    harness = launch(config(budgets=BudgetLimits(default_tokens=64, max_tokens=128)))
    request = ids_request(PROMPT, 200, kv_budget=pb.KvBudget(max_tokens=200))
    error = harness.run(harness.refusal(request))
    assert details(error)[0] == ["kv_budget.max_tokens"]
    assert "this server allows 1 to 128" in error.details()
    answer = harness.run(harness.answer(ids_request(PROMPT, 200)))
    assert answer.accepted.kv_budget == 64
    assert answer.finished[0].usage.kv_tokens_peak == 64
