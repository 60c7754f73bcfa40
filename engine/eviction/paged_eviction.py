"""Whole blocks go, and nothing is moved: those whose values are small for their keys.

Chitty-Venkata et al. 2025, "PagedEviction: Structured Block-wise KV Cache Pruning for Efficient
Large Language Model Inference", arXiv 2509.04377. No queries needed.
    s_j = |v_j| / |k_j|        a block's score is the mean over its entries
No settings. One block table serves all layers and heads here, so the mean is over these too, each
alike; the facts that we have do not say what the paper does there. Keys carry their rotary
embedding, which leaves the norm as it is. Only full blocks without a pinned or recent entry may go;
of equals the older. A round frees ceil(reclaim / block size) blocks, where the paper frees one.
"""

from dataclasses import dataclass

import torch

from engine.eviction.base import CacheView, EvictionPolicy


@dataclass(frozen=True)
class PagedEviction(EvictionPolicy):
    """Ranks by the value's norm over the key's."""

    name = "paged_eviction"
    summary = "whole blocks whose values are large for their keys (PagedEviction, arXiv 2509.04377)"
    needs_values = True
    whole_blocks = True

    def score(self, view: CacheView) -> torch.Tensor:
        keys, values = view.keys.norm(dim=-1), view.values.norm(dim=-1)
        return values.double() / keys.clamp(min=torch.finfo(keys.dtype).tiny)  # double: finite
