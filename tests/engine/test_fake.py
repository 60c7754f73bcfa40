"""The fake model's answers can be computed by hand."""

import subprocess
import sys
import time

import pytest

from engine.config import EngineConfig
from engine.fake import END_TOKEN, FAKE_BLOCKS, VOCABULARY, FakeRunner, next_token
from scheduler.config import SchedulerConfig
from scheduler.plan import Chunk, Eviction, StepPlan
from scheduler.request import Request, Sampling, Sequence


def _sequence(tokens: list[int], logprobs: int | None = None) -> Sequence:
    sampling = Sampling(logprobs=logprobs)
    request = Request(key=1, prompt=tuple(tokens), max_new_tokens=9, sampling=sampling)
    return Sequence(request, 0, tokens)


@pytest.mark.parametrize(
    ("last", "position", "expected"),
    [(0, 0, 3), (1, 0, 34), (1, 1, 41), (250, 0, 223), (200, 100, 126), (0, 1000, 226)],
)
def test_the_next_token_is_arithmetic(last: int, position: int, expected: int) -> None:
    assert next_token(last, position) == expected == (31 * last + 7 * position + 3) % 251


def test_every_drawn_token_is_in_the_vocabulary_and_none_ends() -> None:
    drawn = {next_token(last, position) for last in range(VOCABULARY) for position in range(251)}
    assert drawn == set(range(251))
    assert END_TOKEN not in drawn
    assert max(drawn) < END_TOKEN < VOCABULARY


def test_only_chunks_that_sample_draw_and_from_their_last_token() -> None:
    prompt, decode = _sequence([5, 6, 7, 8]), _sequence([5, 9])
    plan = StepPlan(
        chunks=[
            Chunk(decode, start=1, count=1, kv_start=1, samples=True),
            Chunk(prompt, start=0, count=2, kv_start=0, samples=False),
            Chunk(prompt, start=2, count=2, kv_start=2, samples=True),
        ]
    )
    result = FakeRunner(EngineConfig()).execute(plan)
    assert result.tokens == [next_token(9, 1), next_token(8, 3)]
    assert result.logprobs is None


def test_eviction_changes_slots_and_no_token() -> None:
    sequence = _sequence([1, 2, 3])
    chunk = Chunk(sequence, start=2, count=1, kv_start=1, samples=True)
    eviction = Eviction(sequence, position=2, tokens=2, keep=1, blocks=(0,))
    result = FakeRunner(EngineConfig()).execute(StepPlan([eviction], [chunk]))
    assert result.tokens == [next_token(3, 2)]


def test_log_probabilities_come_for_those_who_asked() -> None:
    chunks = [
        Chunk(_sequence([5], logprobs), start=0, count=1, kv_start=0, samples=True)
        for logprobs in (None, 0, 2)
    ]
    result = FakeRunner(EngineConfig()).execute(StepPlan(chunks=chunks))
    assert result.logprobs is not None
    nobody, drawn_only, top = result.logprobs
    assert nobody is None
    assert drawn_only is not None
    assert (drawn_only.logprob, drawn_only.top) == (0.0, [])
    assert top is not None
    assert top.top == [(next_token(5, 0), 0.0)]


def test_a_step_takes_as_long_as_it_is_told() -> None:
    runner = FakeRunner(EngineConfig(fake_step_seconds=0.05))
    started = time.monotonic()
    runner.execute(StepPlan())
    assert time.monotonic() - started >= 0.05


def test_it_describes_what_the_configuration_says() -> None:
    config = EngineConfig(name="toy", kv_blocks=7, scheduler=SchedulerConfig(block_size=4))
    model = FakeRunner(config).describe()
    assert (model.name, model.total_blocks, model.block_size) == ("toy", 7, 4)
    assert (model.vocabulary_size, model.eos_token_ids) == (VOCABULARY, [END_TOKEN])
    assert model.default_policy in {policy.name for policy in model.policies}
    assert FakeRunner(EngineConfig()).total_blocks == FAKE_BLOCKS


def test_it_runs_without_torch() -> None:
    code = "import sys, engine.process; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
