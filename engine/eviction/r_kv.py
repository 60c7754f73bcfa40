"""Keep what the last queries attend to, minus what a newer key repeats: importance - redundancy.

R-KV, Cai et al. 2025, arXiv 2505.24133, and the code of its authors:
    s_j = w I_j - (1 - w) R_j
    I_j = over the last `window` queries q, the maximum (or mean) of
          softmax_j(max over the query heads of the KV head's group q · k_j / sqrt(d)),
          then the maximum over the 2 * pool_radius + 1 slots around j
    R_j = the largest cosine of k_j to a newer key, or 0 unless it is above `threshold`

That R is ours; `mean_redundancy` gives the paper's:
    R   = softmax_j(mean_i c_ij), where c_ij = cos(k_i, k_j), c_ii = 0, and each i excuses the
          newest j with c_ij > threshold: that c_ij counts as 0

| | w | queries | over them | radius | threshold | R |
|---|---|---|---|---|---|---|
| defaults | .1 | 16 | max | 0 | .5 | largest |
| the paper's code | .1 | 8 | mean | 3 | .5 | mean |

The defaults are what did well on the pocket models (docs/log.md; a lead, not a law): what a newer
key resembles goes first, older before newer, and importance ranks the rest. Three differences from
the code remain. Its softmax leaves out the last `window` keys; here it runs over
all that the query sees. Where no key is above the threshold it excuses slot 0; here nothing. Its
class default of w is .07; the paper's is .1.

The paper keeps the last `window` entries; here the budget's `recent` keeps what it says, and sinks
are the budget's too. Pinned entries take part in softmax, pooling and cosines. Slots are neighbours
even where tokens between them are gone; pooling is cut off at the ends. A query that is missing
counts for nothing. Keys carry their rotary embedding. Of equals the newer stays.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import max_pool1d

from engine.eviction.attention import recent_attention
from engine.eviction.base import CacheView, EvictionPolicy, setting
from kernels.key_redundancy import key_redundancy


@dataclass(frozen=True)
class RKV(EvictionPolicy):
    """Ranks by recent attention less similarity to newer keys."""

    name = "r_kv"
    summary = "what the last queries attend to, minus near-duplicates (R-KV, arXiv 2505.24133)"

    importance_weight: float = setting(
        0.1, 0, 1, "weight of importance; one minus it is redundancy's"
    )
    window: int = setting(16, 1, 32, "newest queries whose attention is importance")
    window_mean: int = setting(0, 0, 1, "1: their mean, as in the paper; 0: their maximum")
    pool_radius: int = setting(
        0, 0, 8, "slots on each side whose importance an entry may take; 0: none (the paper: 3)"
    )
    threshold: float = setting(
        0.5, 0, 1, "cosine above which two keys are near-duplicates (as in the paper)"
    )
    mean_redundancy: int = setting(
        0, 0, 1, "1: softmax of the mean cosine, as in the paper; 0: largest cosine to a newer key"
    )

    @property
    def needs_queries(self) -> int:
        return self.window

    def score(self, view: CacheView) -> torch.Tensor:
        weight = self.importance_weight
        return weight * self._importance(view) - (1 - weight) * self._redundancy(view)

    def _importance(self, view: CacheView) -> torch.Tensor:
        importance = recent_attention(
            view,
            self.window,
            over_queries="mean" if self.window_mean else "max",
            over_heads="strongest",
        )
        if self.pool_radius == 0:
            return importance
        size = 2 * self.pool_radius + 1
        pooled = max_pool1d(importance.flatten(0, 1), size, stride=1, padding=self.pool_radius)
        return pooled.view(importance.shape)

    def _redundancy(self, view: CacheView) -> torch.Tensor:
        caches = view.keys.flatten(0, 2)  # [caches, tokens, head_dim]
        if self.mean_redundancy:
            similar = key_redundancy(caches, excused_above=self.threshold, impl=view.impl)
            redundancy = similar.softmax(dim=-1)
        else:
            nearest = key_redundancy(caches, impl=view.impl)
            redundancy = nearest.where(nearest > self.threshold, 0)
        return redundancy.view(view.keys.shape[:4])
