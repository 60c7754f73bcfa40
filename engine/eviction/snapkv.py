"""Keep what the last queries attend to.

SnapKV, Li et al. 2024, arXiv 2404.14469, used during decoding:
    a_j = mean over the last `window` queries, and over the query heads of the KV head's group, of
          softmax(q · K / sqrt(d))_j over the keys not newer than q
    s_j = mean of a over the 2 * pool_radius + 1 slots around j, cut off at the ends
Choices where sources differ: heads of a group are averaged (as in kvpress; the R-KV authors'
baseline takes the maximum), pooling averages (kernel 5 as in kvpress), 16 queries rather than
kvpress's 64, for the query ring is small. The paper leaves its window's own keys out of the ranking
and keeps them; here they are ranked like all others, and the budget's `recent` keeps what it says.
Slots are neighbours even where tokens between them are gone. Sinks are the budget's; pinned entries
take part in softmax and pooling. A query that is missing counts for nothing. Of equals the newer
stays, so without any query the newest do.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool1d

from engine.eviction.attention import recent_attention
from engine.eviction.base import CacheView, EvictionPolicy, setting


@dataclass(frozen=True)
class SnapKV(EvictionPolicy):
    """Ranks by recent attention, smoothed along the cache."""

    name = "snapkv"
    summary = "entries that the last queries attend to (SnapKV, arXiv 2404.14469)"

    window: int = setting(16, 1, 32, "newest queries whose attention is averaged")
    pool_radius: int = setting(
        2, 0, 8, "slots on each side whose attention an entry shares; 0: no pooling"
    )

    @property
    def needs_queries(self) -> int:
        return self.window

    def score(self, view: CacheView) -> torch.Tensor:
        score = recent_attention(view, self.window)
        if self.pool_radius == 0:
            return score
        size = 2 * self.pool_radius + 1
        pooled: torch.Tensor = avg_pool1d(
            score.flatten(0, 1), size, 1, self.pool_radius, count_include_pad=False
        )
        return pooled.view(score.shape)
