"""Predicted importance: written with the step, by position, and large once thinking is over."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.eviction.base import KEPT_FIRST
from engine.eviction.dynts import DynTS
from engine.importance import ImportanceStore
from engine.kv_pool import KvShape
from scheduler.budget import Budget
from scheduler.plan import Chunk
from scheduler.request import Request, Sampling, Sequence
from tests.engine.dense_oracle import DenseDecoder
from tests.engine.eviction.artifacts import END_THINK, random_artifacts
from tests.engine.harness import make_runner, run
from tests.engine.models import tiny_model

SHAPE = KvShape(1, 1, 1, 2, hidden_size=4, dtype=torch.float32)
ARTIFACTS = random_artifacts(SHAPE)
ROWS, POSITIONS = 4, 30
OTHER = 7  # a token that ends nothing


def _store() -> ImportanceStore:
    return ImportanceStore(ARTIFACTS, ROWS, POSITIONS, torch.device("cpu"))


def _sequence(row: int, prompt: int, tokens: list[int]) -> Sequence:
    request = Request(row, (OTHER,) * prompt, max_new_tokens=20)
    return Sequence(request, 0, tokens, row=row)


def _step(store: ImportanceStore, *chunks: Chunk) -> torch.Tensor:
    """Writes one step of these chunks; returns what the predictor says of all its tokens."""
    tokens = [t for c in chunks for t in c.sequence.tokens[c.start : c.start + c.count]]
    hidden = torch.randn(len(tokens), 4)
    placed, first = [], 0
    for chunk in chunks:
        placed.append((first, chunk))
        first += chunk.count
    for write in store.plan_writes({"dynts": placed}):
        store.write(write, hidden, torch.tensor(tokens))
    return DynTS.predict(ARTIFACTS["dynts"], hidden)


def _chunk(sequence: Sequence, start: int, count: int = 1) -> Chunk:
    return Chunk(sequence, start, count, start, samples=True)


def _read(store: ImportanceStore, row: int, positions: range) -> torch.Tensor:
    return store.read([row], torch.tensor([list(positions)], dtype=torch.int32))[0]


def test_each_token_keeps_what_was_predicted_of_it() -> None:
    store = _store()
    one, two = _sequence(2, 3, [OTHER] * 9), _sequence(0, 5, [OTHER] * 9)
    first = _step(store, _chunk(one, 3), _chunk(two, 0, 7))
    second = _step(store, _chunk(two, 7), _chunk(one, 4))
    torch.testing.assert_close(_read(store, 2, range(3, 5)), torch.stack([first[0], second[1]]))
    expected = torch.stack([first[6], first[7], second[0]])
    torch.testing.assert_close(_read(store, 0, range(5, 8)), expected)


def test_sequences_are_read_by_the_positions_of_their_heads() -> None:
    store = _store()
    chunks = [_chunk(_sequence(row, 0, [OTHER] * 12), 0, 12) for row in (1, 3)]
    predicted = _step(store, *chunks).view(2, 12)
    positions = torch.randint(0, 12, (2, 3, 2, 5), dtype=torch.int32)
    read = store.read([3, 1], positions)
    for sequence, row in ((0, 1), (1, 0)):
        torch.testing.assert_close(read[sequence], predicted[row][positions[sequence].long()])


def test_from_the_end_of_thinking_on_tokens_are_kept_first() -> None:
    store = _store()
    tokens = [OTHER] * 5 + [END_THINK] + [OTHER] * 6
    thinker, other = _sequence(0, 2, tokens), _sequence(1, 2, [OTHER] * 12)
    for position in range(2, 12):
        _step(store, _chunk(thinker, position), _chunk(other, position))
    assert (_read(store, 0, range(2, 5)) < KEPT_FIRST).all()
    assert (_read(store, 0, range(5, 12)) == KEPT_FIRST).all()
    assert (_read(store, 1, range(2, 12)) < KEPT_FIRST).all()


def test_an_end_in_the_middle_of_a_chunk_divides_it() -> None:
    """As when a preempted sequence is computed again."""
    store = _store()
    sequence = _sequence(0, 4, [OTHER] * 8 + [END_THINK] + [OTHER] * 3)
    _step(store, _chunk(sequence, 0, 12))
    assert (_read(store, 0, range(4, 8)) < KEPT_FIRST).all()
    assert (_read(store, 0, range(8, 12)) == KEPT_FIRST).all()


@pytest.mark.parametrize("chunks", [[(0, 9)], [(0, 2), (2, 2), (4, 5)], [(3, 1), (4, 1), (5, 4)]])
def test_a_row_forgets_the_sequence_before(chunks: list[tuple[int, int]]) -> None:
    store = _store()
    _step(store, _chunk(_sequence(0, 0, [END_THINK] * 4), 0, 4))
    assert (_read(store, 0, range(4)) == KEPT_FIRST).all()
    fresh = _sequence(0, 4, [OTHER] * 9)
    for start, count in chunks:
        _step(store, _chunk(fresh, start, count))
    assert (_read(store, 0, range(4, 9)) < KEPT_FIRST).all()


def test_a_question_that_quotes_the_end_of_thinking_ends_nothing() -> None:
    store = _store()
    _step(store, _chunk(_sequence(0, 3, [END_THINK] * 3 + [OTHER] * 6), 0, 9))
    assert (_read(store, 0, range(3, 9)) < KEPT_FIRST).all()


# in the engine


def _request(key: int, prompt: tuple[int, ...], **changes: Any) -> Request:
    budget = Budget(40, "dynts", {}, recent=6, pinned=len(prompt), reclaim=9)
    settings = {"sampling": Sampling(temperature=0.0, seed=5), "budget": budget, **changes}
    return Request(key, prompt, max_new_tokens=90, **settings)


PROMPT = tuple(range(5, 16))


def test_nothing_is_kept_or_computed_for_requests_that_do_not_ask() -> None:
    runner = make_runner("llama")
    budget = Budget(40, "window", {}, recent=6, pinned=len(PROMPT), reclaim=9)
    longest = replace(_request(3, PROMPT), max_new_tokens=40 - len(PROMPT))
    run(runner, [_request(1, PROMPT, budget=budget), _request(2, PROMPT, budget=None), longest])
    assert runner._importance is not None
    assert runner._importance._tensors is None
    run(runner, [_request(4, PROMPT)])
    assert runner._importance._tensors is not None


def test_an_engine_without_the_file_has_no_store(tmp_path: Path) -> None:
    assert make_runner("llama", files=tmp_path)._importance is None


def test_the_answer_stays_as_the_plain_implementation_says(tmp_path: Path) -> None:
    whole = run(make_runner("llama"), [_request(1, PROMPT, budget=None)])[1, 0].tokens
    early = {token: i for i, token in reversed(list(enumerate(whole)))}  # first occurrences
    end = next(token for token, i in early.items() if 12 <= i < 25)
    loaded = make_runner("llama")._loaded
    artifact = {**random_artifacts(loaded.shape)["dynts"], "end_ids": torch.tensor([96, end])}
    save_file(artifact, tmp_path / "dynts.safetensors")
    request = _request(1, PROMPT)
    drawn = run(make_runner("llama", files=tmp_path), [request, _request(2, PROMPT[::-1])], 3)
    oracle = DenseDecoder(partial(tiny_model, "llama"), request, 32, artifact=artifact)
    assert drawn[1, 0].tokens == oracle.decode()
    assert drawn[1, 0].usage.eviction_rounds == oracle.rounds > 3
    assert end in drawn[1, 0].tokens
    unended = run(make_runner("llama"), [request])[1, 0].tokens
    assert drawn[1, 0].tokens != unended, "the end of thinking made a difference"


def test_outputs_that_share_a_prompt_have_their_own_importance() -> None:
    prompt = tuple(range(5, 45))
    budget = Budget(64, "dynts", {}, recent=6, pinned=len(prompt), reclaim=9)
    sampling = Sampling(temperature=1.0, seed=9)
    several = _request(1, prompt, n=3, sampling=sampling, budget=budget)
    late = _request(2, prompt, budget=budget)
    outcomes = run(make_runner("llama"), [several, late], stagger=30)
    assert outcomes[2, 0].usage.cached_prompt_tokens == 32
    assert len({tuple(outcomes[1, i].tokens) for i in range(3)}) == 3
    for request in (replace(several, n=1), late):
        alone = run(make_runner("llama"), [request])[request.key, 0]
        assert alone.usage.eviction_rounds > 3
        assert outcomes[request.key, 0].tokens == alone.tokens
