"""Steps of decodes alone, on tensors of fixed sizes: on a GPU captured once and replayed.

A capture serves all steps of as many sequences or fewer, and of tables as wide or narrower; rows of
nobody fill it up. All captures share one memory pool, the largest first where they are made ahead.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.batch import Batch, BatchBuilder, Chunks
from engine.forward import Forward
from scheduler.plan import StepPlan

Result = tuple[torch.Tensor, torch.Tensor]  # tokens, logits
LEAST_WIDTH = 32  # blocks; narrower tables would save nothing


@dataclass(frozen=True)
class Captured:
    """A step of one size."""

    buffer: torch.Tensor  # uint8, its inputs
    replay: Callable[[], Result]


class StaticSteps:
    """Runs steps of decodes; captures each size when it is first met, or ahead."""

    def __init__(
        self, forward: Forward, batches: BatchBuilder, max_running: int, max_blocks: int
    ) -> None:
        self._forward = forward
        self._batches = batches
        self._sizes = sizes(max_running)
        self._widths = widths(max_blocks)
        self._captured: dict[tuple[int, int], Captured] = {}
        self._pool = torch.cuda.graph_pool_handle() if batches.device.type == "cuda" else None

    def capture_ahead(self, blocks: int) -> None:
        """Captures all sizes with tables of so many blocks."""
        for size in reversed(self._sizes):
            self.run(StepPlan(), Chunks.of([]), size, blocks)

    def run(
        self, plan: StepPlan, chunks: Chunks, sequences: int | None = None, blocks: int = 1
    ) -> Result:
        """Tokens and logits of a plan of decodes; valid until the next step.

        Args:
            plan: decodes alone.
            chunks: the plan's.
            sequences: take the capture for so many, at least; default: the plan's.
            blocks: take the capture for tables so wide, at least.
        """
        count = len(chunks.rows)
        longest = int((chunks.kv_starts + 1).max(initial=1))
        size = _at_least(self._sizes, sequences or count)
        width = _at_least(self._widths, max(blocks, self._batches.blocks_for(longest)))
        captured = self._captured.get((size, width))
        if captured is None:
            buffer = self._batches.static_buffer(size, width)
            batch = self._batches.build_static(plan, chunks, size, width, buffer)
            result = self._forward(batch)  # also readies what may not be done while capturing
            self._captured[size, width] = Captured(buffer, self._capture(batch))
        else:
            self._batches.build_static(plan, chunks, size, width, captured.buffer)
            result = captured.replay()
        return result[0][:count], result[1][:count]

    def _capture(self, batch: Batch) -> Callable[[], Result]:
        """What runs the step again on what is in the batch's tensors by then."""
        if self._pool is None:
            return lambda: self._forward(batch)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = self._forward(batch)

        def replay() -> Result:
            graph.replay()
            return result

        return replay


def sizes(max_running: int) -> list[int]:
    """Numbers of sequences that are captured: steps of a quarter at most, and the largest."""
    chosen, size = [], 1
    while size < max_running:
        chosen.append(size)
        size += max(1, 1 << max(size.bit_length() - 3, 0))
    return [*chosen, max_running]


def widths(max_blocks: int) -> list[int]:
    """Widths of tables that are captured, in blocks: doubling, and the largest."""
    chosen, width = [], LEAST_WIDTH
    while width < max_blocks:
        chosen.append(width)
        width *= 2
    return [*chosen, max_blocks]


def _at_least(choices: list[int], wanted: int) -> int:
    return choices[bisect_left(choices, wanted)]
