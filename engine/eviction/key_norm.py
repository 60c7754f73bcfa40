"""Keep the keys of small norm.

Devoto et al. 2024, "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression",
arXiv 2406.11430: keys of small norm attract attention, whoever asks. No queries needed.
    s_j = -|k_j|
No settings. Every layer and KV head ranks its own keys, all layers alike, as kvpress does. Keys
carry their rotary embedding, which leaves the norm as it is, so occurrences of one token have equal
norms in the first layer. Norms are therefore compared to 12 bits (`rounding.coarse`), and of equals
the newer stays.
"""

from dataclasses import dataclass

import torch

from engine.eviction.base import CacheView, EvictionPolicy
from engine.eviction.rounding import coarse


@dataclass(frozen=True)
class KeyNorm(EvictionPolicy):
    """Ranks by smallness of the key."""

    name = "key_norm"
    summary = "keys of small norm (L2 norm, arXiv 2406.11430)"

    def score(self, view: CacheView) -> torch.Tensor:
        return -coarse(view.keys.norm(dim=-1))
