"""Every range in the contract's comments: what is outside is refused by name, the bound is not."""

import math
from collections.abc import Callable

import pytest

from protos.sluice.v1 import sluice_pb2 as pb
from service.errors import MAX_VIOLATIONS, InvalidRequest, UnknownModel, to_status
from service.validation import check_model, check_request
from tests.service.harness import MODEL

Change = Callable[[pb.GenerateRequest], object]


def request(change: Change) -> pb.GenerateRequest:
    made = pb.GenerateRequest(text="hello")
    change(made)
    return made


def sampling(**fields: float) -> Change:
    return lambda r: r.sampling.MergeFrom(pb.Sampling(**fields))


def stopping(**fields: object) -> Change:
    return lambda r: r.stopping.MergeFrom(pb.Stopping(**fields))


def budget(**fields: object) -> Change:
    return lambda r: r.kv_budget.MergeFrom(pb.KvBudget(**fields))


def top(**fields: object) -> Change:
    return lambda r: r.MergeFrom(pb.GenerateRequest(**fields))


def chat(*turns: tuple[str, str]) -> Change:
    messages = [pb.ChatMessage(role=role, content=content) for role, content in turns]
    return top(chat=pb.Chat(messages=messages))


def ids(*ids: int) -> Change:
    return top(token_ids=pb.TokenIds(ids=ids))


NAN, INF = math.nan, math.inf
REFUSED = [
    *[("sampling.temperature", sampling(temperature=v)) for v in (-1, 1e-45, 1e-4, 0.0099, 100.1)],
    *[("sampling.top_p", sampling(top_p=v)) for v in (0, -0.5, 1 + 2**-23)],
    *[("sampling.min_p", sampling(min_p=v)) for v in (-0.001, 1.001)],
    *[("sampling.repetition_penalty", sampling(repetition_penalty=v)) for v in (0, 0.099, 10.1)],
    *[
        (f"sampling.{name}", sampling(**{name: value}))
        for name in ("temperature", "top_p", "min_p", "repetition_penalty")
        for value in (NAN, INF, -INF)
    ],
    *[("sampling.n", sampling(n=v)) for v in (0, 65, 2**32 - 1)],
    *[("sampling.logprobs", sampling(logprobs=v)) for v in (21, 2**32 - 1)],
    *[("priority", top(priority=v)) for v in (-101, 101, 2**31 - 1)],
    *[("stream_interval", top(stream_interval=v)) for v in (0, 1025)],
    *[("request_id", top(request_id=v)) for v in ("", "x" * 129)],
    ("cache_salt", top(cache_salt="x" * 257)),
    ("chat.messages", chat(*[("user", "")] * 4097)),
    ("stopping.max_tokens", stopping(max_tokens=0)),
    ("stopping.stop", stopping(stop=["x"] * 17)),
    ("stopping.stop[1]", stopping(stop=["x", ""])),
    ("stopping.stop[0]", stopping(stop=["x" * 257])),
    ("stopping.stop_token_ids", stopping(stop_token_ids=[1] * 65)),
    ("stopping.stop_token_ids[1]", stopping(stop_token_ids=[1, 257])),
    ("input", lambda r: r.ClearField("text")),
    ("text", top(text="")),
    ("text", top(text="x" * 1001)),
    ("chat.messages", top(chat=pb.Chat())),
    ("chat.messages[1].role", chat(("user", "a"), ("tool", "b"))),
    ("chat.messages", chat(("user", ""))),
    ("chat.messages", chat(("user", "x" * 600), ("assistant", "x" * 600))),
    ("token_ids.ids", ids()),
    ("token_ids.ids", ids(*[1] * 100)),
    ("token_ids.ids[2]", ids(1, 2, 257)),
    ("token_ids.ids[0]", ids(2**32 - 1)),
    ("kv_budget.policy", budget(policy="best")),
    ("kv_budget.policy", budget(policy="")),
    ("kv_budget.reclaim_tokens", budget(reclaim_tokens=0)),
    *[
        ("kv_budget.policy_settings[lambda]", budget(policy_settings={"lambda": v}))
        for v in (-0.1, 1.1, NAN, INF, -INF)
    ],
    *[
        ("kv_budget.policy_settings[window]", budget(policy_settings={"window": v}))
        for v in (0, 65, 8.5)
    ],
    ("kv_budget.policy_settings['alpha']", budget(policy_settings={"alpha": 1})),
    (
        "kv_budget.policy_settings['lambda']",
        budget(policy="plain", policy_settings={"lambda": 0.1}),
    ),
]
ALLOWED = [
    *[sampling(temperature=v) for v in (0, 0.01, 1, 100)],
    *[sampling(top_p=v) for v in (1e-6, 0.95, 1)],
    *[sampling(min_p=v) for v in (0, 1)],
    *[sampling(repetition_penalty=v) for v in (0.1, 10)],
    *[sampling(n=v) for v in (1, 64)],
    *[sampling(logprobs=v) for v in (0, 20)],
    *[sampling(top_k=v) for v in (0, 2**32 - 1)],
    *[sampling(seed=v) for v in (0, 2**64 - 1)],
    *[top(priority=v) for v in (-100, 100)],
    *[top(stream_interval=v) for v in (1, 1024)],
    *[top(request_id=v) for v in ("x", "ß" * 128)],
    top(model="fake"),
    top(cache_salt="x" * 256),
    chat(*[("user", "")] * 4095, ("assistant", "b")),
    stopping(max_tokens=2**32 - 1),
    stopping(stop=["x" * 256] * 16),
    stopping(stop_token_ids=[256] * 64),
    top(text="x" * 1000),
    chat(("system", ""), ("user", "a"), ("assistant", "b")),
    ids(*[256] * 99),
    budget(min_tokens=5, max_tokens=6),
    budget(max_tokens=0),
    budget(policy="plain"),
    budget(policy_settings={"lambda": 0.0, "window": 64}),
]


@pytest.mark.parametrize(("field", "change"), REFUSED)
def test_out_of_range_is_refused_by_name(field: str, change: Change) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_request(request(change), MODEL, 1000)
    (violation,) = caught.value.violations
    assert violation.field == field
    assert violation.message


@pytest.mark.parametrize("change", ALLOWED)
def test_the_bounds_themselves_are_allowed(change: Change) -> None:
    check_request(request(change), MODEL, 1000)


def test_several_fields_are_named_at_once() -> None:
    made = pb.GenerateRequest(
        text="x", sampling=pb.Sampling(n=0, top_p=2), stopping=pb.Stopping(max_tokens=0)
    )
    with pytest.raises(InvalidRequest) as caught:
        check_request(made, MODEL, 1000)
    fields = {violation.field for violation in caught.value.violations}
    assert fields == {"sampling.n", "sampling.top_p", "stopping.max_tokens"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (sampling(temperature=-1), ("got -1", "0.01 to 100")),
        (budget(policy="best"), ("'best'", "r_kv, plain")),
        (budget(policy_settings={"window": 8.5}), ("got 8.5", "whole number", "1 to 64", "8")),
        (budget(policy_settings={"alpha": 1}), ("lambda, window",)),
    ],
)
def test_messages_say_what_came_and_what_may(change: Change, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_request(request(change), MODEL, 1000)
    assert all(word in str(caught.value) for word in words)


def test_a_hostile_request_gets_a_small_answer() -> None:
    """Details travel in a trailer of a few KiB, whatever a client writes into its fields."""
    settings = {f"{'x' * 1000}{i}": 1.0 for i in range(1000)}
    stops = [""] * 10_000
    made = request(lambda r: (budget(policy_settings=settings)(r), stopping(stop=stops)(r)))
    with pytest.raises(InvalidRequest) as caught:
        check_request(made, MODEL, 1000)
    assert len(caught.value.violations) == MAX_VIOLATIONS
    assert to_status(caught.value).ByteSize() < 6000


def test_another_model_is_not_found() -> None:
    with pytest.raises(UnknownModel, match=r"no model 'other'; this server has 'fake'"):
        check_request(request(top(model="other")), MODEL, 1000)
    with pytest.raises(UnknownModel):
        check_model(pb.GetModelInfoRequest(model=""), MODEL)
