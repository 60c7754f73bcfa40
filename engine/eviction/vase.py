"""Keep outlier values, and of the rest a sample drawn by recent attention.

VaSE, 2026, arXiv 2606.03928, and the code of its authors. Of the n entries that a round leaves
beside the pinned and the newest, in each layer and KV head,
    large_share n (rounded down) are those with largest max - min over the channels of v_j;
    the others are sampled without replacement, weight a_j: SnapKV's score (mean softmax of the last
    `window` queries over the group's heads, then over the 2 * pool_radius + 1 slots around j)
The sample is the highest of s_j = a_j / e_j, e_j exponential from a hash of (view seed, layer, KV
head, position). That is a race of exponential clocks, as torch.multinomial draws, and the same as
Gumbel noise on log a_j. In its authors' ablation, evicting large values ruins the answers (88 to
14), evicting at random harms them less (53).

| | large | window | pooling | softmax over keys |
|---|---|---|---|---|
| defaults | 1/4 of n | 16 | mean of 5, cut off at the ends | all that the query sees |
| the paper's code | 1/4 of the cap, with 4 sinks | 64 | mean of 5, zeros beyond | the older ones |

Sinks are the budget's business (pinned entries, the whole prompt by default), so here they do not
use up the large. Each KV head ranks its own values. Occurrences of one token have equal values in
the first layer, so ranges are compared to 12 bits (`rounding.coarse`), and of equals the newer is
large. What has weight 0 is drawn last, the newer first: without any query the newest stay.
"""

from dataclasses import dataclass

import torch

from engine.eviction.base import CacheView, EvictionPolicy, setting
from engine.eviction.noise import uniform
from engine.eviction.rounding import coarse
from engine.eviction.selection import protected, ranks
from engine.eviction.snapkv import SnapKV
from kernels.select_entries import select_entries

_LEAST = 2.0**-25  # stands for a hash of 0, whose logarithm does not exist


@dataclass(frozen=True)
class VaSE(EvictionPolicy):
    """Keeps the widest values, and ranks the rest by attention and the throw of a die."""

    name = "vase"
    summary = "outlier values, and a sample drawn by recent attention (VaSE, arXiv 2606.03928)"
    needs_values = True

    large_share: float = setting(
        0.25, 0, 1, "share of what a round leaves to choose that goes to outlier values"
    )
    window: int = setting(16, 1, 32, "newest queries whose attention weighs the sample")
    pool_radius: int = setting(
        2, 0, 8, "slots on each side whose attention an entry shares; 0: no pooling"
    )

    @property
    def needs_queries(self) -> int:
        return self.window

    def score(self, view: CacheView) -> torch.Tensor:
        weights = SnapKV(self.window, self.pool_radius).score(view)
        return weights / -uniform(view).clamp(min=_LEAST).log()

    def select(
        self, view: CacheView, count: int, *, pinned: torch.Tensor, recent: torch.Tensor
    ) -> torch.Tensor:
        stays = protected(view.keys.shape[3], pinned, recent)
        scores = torch.cat([self.score(part) for part in view.parts()])
        scores = scores.masked_fill(self._large(view.values, count, stays), torch.inf)
        return select_entries(scores, count, pinned, recent, impl=view.impl)

    def _large(self, values: torch.Tensor, count: int, stays: torch.Tensor) -> torch.Tensor:
        """The entries with the widest values among those that do not stay anyway.

        Args:
            values: [sequences, layers, kv_heads, tokens, head_dim].
            count: entries left by the round.
            stays: [sequences, tokens] bool.

        Returns:
            [sequences, layers, kv_heads, tokens] bool, equally many in each head of a sequence.
        """
        wide = coarse(values.amax(dim=-1) - values.amin(dim=-1)).nan_to_num(nan=0.0)
        order = ranks(wide.masked_fill(stays[:, None, None, :], -torch.inf))
        free = count - stays.sum(dim=-1)  # [sequences]
        large = (free.double() * self.large_share).long()
        last = (large - 1).clamp(min=0)[:, None, None, None].expand(*order.shape[:3], 1)
        lowest = order.sort(dim=-1, descending=True).values.gather(-1, last)
        return (order >= lowest) & (large > 0)[:, None, None, None]
