"""Calibrates TriAttention: mean and mean length of each head's queries before their rotation.

Over the tokens that the model generated, whose queries are the ones that ask while decoding; the
authors' files were made from whole texts.
"""

from collections.abc import Sequence
from functools import partial

import torch

from clients.errors import DataError
from engine.eviction.rotation import as_complex, turn
from tools.calibrate.subject import Attended, Subject, watched_by
from tools.calibrate.traces import Report, Trace


class QueryStatistics:
    """Sums over the queries it was shown, in float64."""

    def __init__(self, subject: Subject) -> None:
        shape = subject.shape
        if subject.frequencies is None:
            raise DataError(
                f"tri_attention needs rotary positions over whole heads, which {subject.name} lacks"
            )
        self._frequencies = subject.frequencies.to(subject.device)
        sizes = (shape.layers, shape.heads, shape.head_dim // 2)
        self._sum = torch.zeros(sizes, dtype=torch.complex128, device=subject.device)
        self._length = torch.zeros(sizes, dtype=torch.float64, device=subject.device)
        self.tokens = 0

    def add(self, attended: Attended, first: int) -> None:
        """Counts the queries of one layer of one trace from token `first` on."""
        queries = as_complex(attended.queries[:, first:].float())  # [heads, tokens, head_dim / 2]
        positions = torch.arange(first, first + queries.shape[1], device=queries.device)
        back = turn(-positions[:, None] * self._frequencies[attended.layer])
        layer = attended.layer
        self._sum[layer] += (queries * back).sum(dim=1, dtype=torch.complex128)
        self._length[layer] += queries.abs().sum(dim=1, dtype=torch.float64)
        self.tokens += queries.shape[1] if layer == 0 else 0

    def tensors(self) -> dict[str, torch.Tensor]:
        mean = self._sum / self.tokens
        return {
            "q_mean": torch.cat([mean.real, mean.imag], dim=-1).float(),
            "q_abs": (self._length / self.tokens).float(),
        }


@torch.inference_mode()
def calibrate_tri_attention(
    subject: Subject, traces: Sequence[Trace], seed: int, report: Report
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What TriAttention knows of each head.

    Returns:
        q_mean [layers, heads, head_dim], real halves first, and q_abs [layers, heads,
        head_dim / 2], float32; and facts for the file's metadata.

    Raises:
        DataError: the model has no rotary positions of the kind that can be taken off.
    """
    statistics = QueryStatistics(subject)
    for done, trace in enumerate(traces, 1):
        ids = torch.tensor([trace.ids], device=subject.device)
        with watched_by(partial(statistics.add, first=trace.prompt)):
            subject.model.base_model(input_ids=ids, use_cache=False)
        report("measuring queries", done, len(traces))
    return statistics.tensors(), {"tokens": str(statistics.tokens)}
