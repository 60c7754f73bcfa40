"""Draws follow the settings, depend on the request alone, and never turn NaN into a token."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
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

from engine.rows import Rows, Traits
from engine.sampler import (
    Draws,
    LastTokens,
    SeenTokens,
    TopLogprobsInFlight,
    draw,
    state_of,
    uniform,
)
from scheduler.plan import Chunk
from scheduler.request import Request, Sampling, Sequence

VOCABULARY = 23
CPU = torch.device("cpu")


def _logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def _rows(*samplings: Sampling, outputs: list[int] | None = None) -> Rows:
    """A table of rows with these settings."""
    table = Rows(len(samplings), 1, lambda _: Traits(False, False, None))
    chunks = []
    for row, sampling in enumerate(samplings):
        request = Request(row, (1,), max_new_tokens=9, n=9, sampling=sampling)
        output = outputs[row] if outputs else 0
        chunks.append(Chunk(Sequence(request, output, [1], row=row), 0, 1, 0, True))
    assert table.update(chunks) == chunks
    return table


def _draws(table: Rows, positions: list[int]) -> Draws:
    """All rows of a table, each about to draw the token of its position."""
    rows = np.arange(len(positions))
    return Draws(
        tokens=torch.from_numpy(rows),
        rows=torch.from_numpy(rows),
        temperatures=torch.from_numpy(table.temperatures[rows]),
        top_ks=torch.from_numpy(table.top_ks[rows]),
        top_ps=torch.from_numpy(table.top_ps[rows]),
        min_ps=torch.from_numpy(table.min_ps[rows]),
        numbers=torch.from_numpy(uniform(table.states[rows], np.array(positions))),
    )


def _sample(
    logits: torch.Tensor,
    samplings: list[Sampling],
    positions: list[int] | None = None,
    outputs: list[int] | None = None,
) -> list[int]:
    table = _rows(*samplings, outputs=outputs)
    drawn: list[int] = draw(logits, _draws(table, positions or [4] * len(samplings)), None).tolist()
    return drawn


def test_greedy_takes_the_largest_logit() -> None:
    logits = _logits(9)
    assert _sample(logits, [Sampling(temperature=0.0)] * 9) == logits.argmax(-1).tolist()


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
    sampling = Sampling(temperature, top_p, top_k, min_p, seed=seed)
    for token in _sample(logits.expand(20, -1), [sampling] * 20, list(range(20))):
        assert token >= 0
        assert allowed[token], f"token {token} was filtered out"


def test_draws_have_the_softmax_frequencies() -> None:
    logits = _logits(1, seed=5)
    draws = 4000
    sampling = Sampling(temperature=1.3, seed=11)
    counts = Counter(
        _sample(logits.expand(draws, -1).contiguous(), [sampling] * draws, list(range(draws)))
    )
    expected = (logits[0].double() / 1.3).softmax(-1) * draws
    chi_square = sum((counts[i] - float(e)) ** 2 / float(e) for i, e in enumerate(expected))
    assert chi_square < 60  # 22 degrees of freedom: p = 2e-5


@given(seed=st.integers(0, 2**64 - 1), order=st.permutations(range(6)))
@settings(max_examples=25, deadline=None)
def test_a_row_draws_the_same_alone_and_in_any_batch(seed: int, order: list[int]) -> None:
    logits = _logits(6, seed % 97)
    asked = [Sampling([0.0, 0.7, 1.0][i % 3], top_p=0.9, seed=seed) for i in range(6)]
    positions, outputs = [i + 2 for i in range(6)], [i % 2 for i in range(6)]
    alone = [
        _sample(logits[i : i + 1], [asked[i]], [positions[i]], [outputs[i]])[0] for i in range(6)
    ]
    together = _sample(
        logits[order],
        [asked[i] for i in order],
        [positions[i] for i in order],
        [outputs[i] for i in order],
    )
    assert together == [alone[i] for i in order]


def _number(seed: int, output: int, position: int) -> float:
    return float(uniform(np.array([state_of(seed, output)], np.uint64), np.array([position]))[0])


def test_the_number_depends_on_each_coordinate_and_is_uniform() -> None:
    base = _number(1, 2, 3)
    assert len({base, _number(2, 2, 3), _number(1, 3, 3), _number(1, 2, 4)}) == 4
    assert _number(2**64 - 1, 2**31, 2**31) < 1.0
    states = np.full(5000, state_of(9, 0), np.uint64)
    numbers = uniform(states, np.arange(5000)).tolist()
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert abs(sum(numbers) / 5000 - 0.5) < 0.02
    assert max(Counter(int(10 * number) for number in numbers).values()) < 600


def test_repetition_penalty_is_that_of_transformers() -> None:
    logits = _logits(2, seed=3)
    held = [1, 4, 4, 9, int(logits[0].argmax())]
    warper = RepetitionPenaltyLogitsProcessor(1.7)
    expected = warper(torch.tensor([held, held]), logits.clone())
    seen, before = SeenTokens(3, VOCABULARY, CPU), logits.clone()
    for row in (0, 1):
        seen.begin(row, [7])  # of who was there before
        seen.begin(row, held[:2])
    rows = torch.tensor([0, 0, 0, 1, 1, 1])
    seen.add(rows, torch.tensor(held[2:] * 2))
    penalised = seen.penalised(logits, torch.tensor([0, 1]), torch.tensor([1.7, 1.7]))
    assert torch.allclose(penalised, expected)
    assert torch.equal(logits, before), "logits are reported raw, so they may not change"
    plain = seen.penalised(logits, torch.tensor([0, 1]), torch.tensor([1.0, 1.7]))
    assert torch.equal(plain[0], logits[0]), "a row without a penalty changed"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_that_is_not_finite_fails_alone(bad: float, temperature: float) -> None:
    logits, asked = _logits(3), [Sampling(temperature, seed=5)] * 3
    expected = _sample(logits, asked)
    logits[1, 7] = bad
    assert _sample(logits, asked) == [expected[0], -1, expected[2]]
    logits[1] = -math.inf
    assert _sample(logits, asked)[1] == -1


def test_one_token_may_be_all_that_is_possible() -> None:
    logits = torch.full((1, VOCABULARY), -math.inf)
    logits[0, 6] = 0.0
    for seed in range(20):
        assert _sample(logits, [Sampling(temperature=1.0, seed=seed)]) == [6]


@pytest.mark.parametrize(
    "extreme",
    [
        *({"temperature": value} for value in (0.0, 0.01, 100.0)),
        *({"top_p": value} for value in (1e-45, 1e-9, 1.0)),
        *({"top_k": value} for value in (0, 1, 2**31 - 1, 2**31, 2**32 - 1)),
        *({"min_p": value} for value in (1e-45, 1.0)),
        *({"seed": value} for value in (0, 2**63, 2**64 - 1)),
    ],
)
def test_extreme_settings_still_draw(extreme: dict[str, float]) -> None:
    sampling = replace(Sampling(temperature=1.0), **extreme)
    (token,) = _sample(_logits(1) * 50, [sampling])
    assert 0 <= token < VOCABULARY


@pytest.mark.parametrize("penalty", [0.1, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_penalties_leave_logits_finite(penalty: float, dtype: torch.dtype) -> None:
    seen, logits = SeenTokens(1, VOCABULARY, CPU), (_logits(1) * 1e4).to(dtype)
    seen.begin(0, list(range(VOCABULARY)))
    penalised = seen.penalised(logits, torch.tensor([0]), torch.tensor([penalty]))
    assert penalised.isfinite().all()


def test_the_last_token_of_a_row_is_its_next_input() -> None:
    last, draws = LastTokens(3, CPU), _draws(_rows(Sampling(), Sampling()), [5, 5])
    last.keep(draws, torch.tensor([11, -1]))
    ids = last.fill_in(torch.tensor([-1, 8, -1]), torch.tensor([0, 0, 1]))
    assert ids.tolist() == [11, 8, 0], "a row that failed goes on with some token"


def test_logprobs_are_those_of_the_raw_logits() -> None:
    logits, tokens = _logits(4), [3, 5, None, 7]
    drawn = torch.tensor([3, 5, -1, 7])
    flight = TopLogprobsInFlight(logits, np.array([2, -1, 1, 0]), drawn)
    first, second, third, fourth = flight.result(tokens)
    assert second is None
    assert third is None, "a row whose logits are not finite has none"
    scores = logits.log_softmax(-1)
    assert first is not None
    assert fourth is not None
    assert first.logprob == pytest.approx(float(scores[0, 3]))
    best = scores[0].topk(2)
    assert [token for token, _ in first.top] == best.indices.tolist()
    assert [value for _, value in first.top] == pytest.approx(best.values.tolist())
    assert (fourth.logprob, fourth.top) == (pytest.approx(float(scores[3, 7])), [])
