"""Keep what the last query attends to, the same tokens in all heads of a layer.

TOVA, Oren et al. 2024, "Transformers are Multi-State RNNs", arXiv 2401.06104:
    s_j = mean over all query heads of the layer of softmax(q · K / sqrt(d))_j, q the newest query
No settings, no pooling. The paper drops one entry in every step; here a round drops several by the
query that ran last. Slots are averaged across KV heads: as all heads of a layer rank alike from the
first round on, slot j holds the same token in each. The newest entry may rank low, as in the paper
(kvpress exempts it); here the budget's `recent` protects it. Without a query, and between equals,
the newer stays.
"""

from dataclasses import dataclass

import torch

from engine.eviction.attention import recent_attention
from engine.eviction.base import CacheView, EvictionPolicy


@dataclass(frozen=True)
class TOVA(EvictionPolicy):
    """Ranks by the last query's attention, for a whole layer at once."""

    name = "tova"
    summary = "entries that the last query attends to, one set per layer (TOVA, arXiv 2401.06104)"

    @property
    def needs_queries(self) -> int:
        return 1

    def score(self, view: CacheView) -> torch.Tensor:
        attention = recent_attention(view, 1)  # [sequences, layers, kv_heads, tokens]
        return attention.mean(dim=2, keepdim=True).expand(view.keys.shape[:4])
