"""Keep the keys that point away from the others.

KeyDiff, Park et al. 2025, arXiv 2504.15364: keys unlike the mean key attract attention, and a set
of unlike keys covers more. No queries needed.
    s_j = -cos(k_j, a),  a = mean_i k_i / |k_i|
No settings, no pooling. Every KV head ranks its own keys, which carry their rotary embedding, as in
kvpress. The mean runs over the whole cache, pinned and newest entries included; sinks are the
budget's. A zero key has cosine 0. Of equals the newer stays.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from engine.eviction.base import CacheView, EvictionPolicy


@dataclass(frozen=True)
class KeyDiff(EvictionPolicy):
    """Ranks by distance from the mean direction."""

    name = "key_diff"
    summary = "keys unlike the mean key (KeyDiff, arXiv 2504.15364)"

    def score(self, view: CacheView) -> torch.Tensor:
        directions = normalize(view.keys, dim=-1)  # [sequences, layers, kv_heads, tokens, head_dim]
        anchor = normalize(directions.mean(dim=-2), dim=-1)
        return -(directions @ anchor[..., None]).squeeze(-1)
