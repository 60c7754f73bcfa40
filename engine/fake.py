"""FakeRunner: a model whose answers you can compute by hand. No torch.

Next token = (31 * last token + 7 * position + 3) % 251, where position is the logical position of
the last token. Eviction moves nothing, but the counts are the scheduler's, so everything around the
model (budgets, blocks, streams, metrics) is real.
"""

import time
from dataclasses import dataclass

from engine.config import FAKE_MODEL, EngineConfig
from engine.messages import ModelInfo, PolicyInfo
from engine.runner_api import Runner, build_model_info
from scheduler.plan import Chunk, StepPlan, StepResult, TopLogprobs
from scheduler.request import Sequence

VOCABULARY = 257  # one token per byte, then the end token
END_TOKEN = 256  # the arithmetic never reaches it
FAKE_BLOCKS = 4096
FAKE_SEQUENCE_TOKENS = 32768


def next_token(last: int, position: int) -> int:
    """What the fake model draws after `last` at `position`."""
    return (31 * last + 7 * position + 3) % 251


class FakeRunner(Runner):
    """Executes plans by arithmetic; sleeps `fake_step_seconds` to look like a step of a model."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self.total_blocks = config.kv_blocks or FAKE_BLOCKS
        self.eviction_seconds = 0.0
        self.overlaps = bool(config.overlap)
        self._last: dict[int | None, int] = {}  # drawn last, by row

    def describe(self) -> ModelInfo:
        return build_model_info(
            self._config,
            architecture=FAKE_MODEL,
            max_sequence_tokens=self._config.max_sequence_tokens or FAKE_SEQUENCE_TOKENS,
            vocabulary_size=VOCABULARY,
            total_blocks=self.total_blocks,
            eos_token_ids=[END_TOKEN],
            policies=[
                PolicyInfo("r_kv", "stands in for the default policy; moves nothing", 0.125, []),
                PolicyInfo("window", "stands in for the newest tokens; moves nothing", 0.125, []),
                PolicyInfo("paged_eviction", "the oldest blocks go", 0.125, [], whole_blocks=True),
            ],
        )

    def choose_blocks(self, sequence: Sequence, candidates: list[int], count: int) -> list[int]:
        return candidates[:count]

    def launch(self, plan: StepPlan) -> "FakeStep":
        if self._config.fake_step_seconds:
            time.sleep(self._config.fake_step_seconds)
        chunks = [chunk for chunk in plan.chunks if chunk.samples]
        tokens: list[int | None] = [self._draw(chunk) for chunk in chunks]
        wanted = [chunk.sequence.request.sampling.logprobs for chunk in chunks]
        if all(count is None for count in wanted):
            return FakeStep(StepResult(tokens))
        logprobs = [
            None if count is None else TopLogprobs(0.0, [(token or 0, 0.0)][:count])
            for token, count in zip(tokens, wanted, strict=True)
        ]
        return FakeStep(StepResult(tokens, logprobs))

    def _draw(self, chunk: Chunk) -> int:
        position, tokens, row = (
            chunk.start + chunk.count - 1,
            chunk.sequence.tokens,
            chunk.sequence.row,
        )
        last = tokens[position] if position < len(tokens) else self._last[row]
        self._last[row] = token = next_token(last, position)
        return token


@dataclass(frozen=True)
class FakeStep:
    """A step that is done as soon as it is launched."""

    drawn: StepResult

    def result(self) -> StepResult:
        return self.drawn
