"""Keep the newest entries; with the sinks pinned this is StreamingLLM's window.

Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", arXiv 2309.17453:
    s_j = position of j
No settings; the same in every layer and head, and positions never tie. How many sinks stay is the
budget's (`pinned`), not the policy's. Unlike the paper, keys keep the rotary angle of their logical
position.
"""

from dataclasses import dataclass

import torch

from engine.eviction.base import CacheView, EvictionPolicy


@dataclass(frozen=True)
class Window(EvictionPolicy):
    """Ranks by age."""

    name = "window"
    summary = "the newest entries (StreamingLLM, arXiv 2309.17453)"
    needs_keys = False

    def score(self, view: CacheView) -> torch.Tensor:
        return view.positions.float()  # exact below 2**24
