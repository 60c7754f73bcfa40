"""Keep a uniformly random subset, drawn independently in every layer and KV head.

"Random Attention", 2026, arXiv 2609.03430: once prompt and newest entries are pinned, this ties
with most scorers at about fourfold compression. What one head drops, another is likely to hold,
hence the independent draws.
    s_j = uniform in [0, 1) from a hash of (view seed, layer, KV head, position of j)
No settings, no queries, no pooling. The view's seed changes from round to round, so each round
draws afresh. The paper keeps the last 64 entries; here the budget says how many, and how much of
the prompt. Only 24 bits of the hash survive in float32; the rare tie goes to the newer.
"""

from dataclasses import dataclass

import torch

from engine.eviction.base import CacheView, EvictionPolicy
from engine.eviction.noise import uniform


@dataclass(frozen=True)
class RandomAttention(EvictionPolicy):
    """Ranks by the throw of a die."""

    name = "random"
    summary = "a random subset, independent per layer and head (Random Attention, arXiv 2609.03430)"
    needs_keys = False

    def score(self, view: CacheView) -> torch.Tensor:
        return uniform(view)
