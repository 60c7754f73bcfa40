"""Draws follow the settings, depend on the request alone, and never turn NaN into a token."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.sampler import Draw, sample, top_logprobs, uniform
from scheduler.request import Sampling

VOCABULARY = 23


def _logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def _draw(position: int = 4, output: int = 0, **sampling: float) -> Draw:
    return Draw(Sampling(**sampling), output, list(range(position)))  # type: ignore[arg-type]


def test_greedy_takes_the_largest_logit() -> None:
    logits = _logits(9)
    assert sample(logits, [_draw(temperature=0.0)] * 9) == logits.argmax(-1).tolist()


@settings(max_examples=60, deadline=None)
@given(
    temperature=st.floats(0.05, 5.0),
    top_k=st.integers(0, 30),
    top_p=st.floats(0.05, 1.0),
    min_p=st.floats(0.0, 0.5),
    seed=st.integers(0, 2**64 - 1),
)
def test_draws_stay_within_what_transformers_filters_leave(
    temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    logits = _logits(1, seed % 1000)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    warpers.append(TopPLogitsWarper(min(top_p + 1e-5, 1.0)))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p * (1 - 1e-5)))
    allowed = torch.isfinite(warpers(torch.zeros(1, 1, dtype=torch.long), logits.double()))[0]
    for position in range(20):
        draw = _draw(
            position,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
        )
        (token,) = sample(logits, [draw])
        assert token is not None
        assert allowed[token], f"token {token} was filtered out"


def test_draws_have_the_softmax_frequencies() -> None:
    logits = _logits(1, seed=5)
    draws = 4000
    rows = [_draw(position, temperature=1.3, seed=11) for position in range(draws)]
    counts = Counter(sample(logits.expand(draws, -1), rows))
    expected = (logits[0].double() / 1.3).softmax(-1) * draws
    chi_square = sum((counts[i] - float(e)) ** 2 / float(e) for i, e in enumerate(expected))
    assert chi_square < 60  # 22 degrees of freedom: p = 2e-5


@given(seed=st.integers(0, 2**64 - 1), order=st.permutations(range(6)))
@settings(max_examples=25, deadline=None)
def test_a_row_draws_the_same_alone_and_in_any_batch(seed: int, order: list[int]) -> None:
    logits = _logits(6, seed % 97)
    draws = [
        _draw(i + 2, output=i % 2, temperature=[0.0, 0.7, 1.0][i % 3], top_p=0.9, seed=seed)
        for i in range(6)
    ]
    alone = [sample(logits[i : i + 1], [draws[i]])[0] for i in range(6)]
    together = sample(logits[order], [draws[i] for i in order])
    assert together == [alone[i] for i in order]


def test_the_number_depends_on_each_coordinate_and_is_uniform() -> None:
    base = uniform(1, 2, 3)
    assert len({base, uniform(2, 2, 3), uniform(1, 3, 3), uniform(1, 2, 4)}) == 4
    numbers = [uniform(9, 0, position) for position in range(5000)]
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert abs(sum(numbers) / 5000 - 0.5) < 0.02
    assert max(Counter(int(10 * number) for number in numbers).values()) < 600


def test_repetition_penalty_is_that_of_transformers() -> None:
    logits = _logits(2, seed=3)
    seen = [1, 4, 4, 9, int(logits[0].argmax())]
    draws = [Draw(Sampling(temperature=0.0, repetition_penalty=1.7), 0, seen)] * 2
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([seen, seen]), logits.clone())
    before = logits.clone()
    assert sample(logits, draws) == expected.argmax(-1).tolist()
    assert torch.equal(logits, before), "logits are reported raw, so they may not change"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_that_is_not_finite_fails_alone(bad: float, temperature: float) -> None:
    logits = _logits(3)
    expected = sample(logits, [_draw(temperature=temperature, seed=5)] * 3)
    logits[1, 7] = bad
    assert sample(logits, [_draw(temperature=temperature, seed=5)] * 3) == [
        expected[0],
        None,
        expected[2],
    ]
    logits[1] = -math.inf
    assert sample(logits, [_draw(temperature=temperature)] * 3)[1] is None


def test_one_token_may_be_all_that_is_possible() -> None:
    logits = torch.full((1, VOCABULARY), -math.inf)
    logits[0, 6] = 0.0
    for seed in range(20):
        assert sample(logits, [_draw(temperature=1.0, seed=seed)]) == [6]


@pytest.mark.parametrize(
    "extreme", [{"temperature": 0.01}, {"temperature": 100.0}, {"top_p": 1e-9}]
)
def test_extreme_settings_still_draw(extreme: dict[str, float]) -> None:
    logits = _logits(1) * 50
    (token,) = sample(logits, [_draw(**{"temperature": 1.0, **extreme})])
    assert token is not None
    if "temperature" not in extreme or extreme["temperature"] < 1:
        assert token == int(logits.argmax())


def test_logprobs_are_of_raw_logits_and_only_for_rows_that_asked() -> None:
    logits = _logits(2)
    draws = [_draw(temperature=0.0, logprobs=3), _draw(temperature=0.0)]
    found = top_logprobs(logits, draws, sample(logits, draws))
    assert found is not None
    assert found[1] is None
    expected = logits[0].log_softmax(-1)
    assert found[0] is not None
    assert found[0].logprob == pytest.approx(float(expected.max()))
    assert [token for token, _ in found[0].top] == expected.topk(3).indices.tolist()
    assert top_logprobs(logits, [draws[1]] * 2, [1, 2]) is None
    zero = top_logprobs(logits[:1], [_draw(temperature=0.0, logprobs=0)], [2])
    assert zero is not None
    assert zero[0] is not None
    assert zero[0].top == []
