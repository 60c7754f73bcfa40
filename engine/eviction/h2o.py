"""Keep the heavy hitters: entries that received most attention since they were written.

H2O, Zhang et al. 2023, arXiv 2306.14048:
    s_j = sum over all queries i >= j, and over the query heads of the KV head's group, of
          softmax(q_i · K / sqrt(d))_j
The engine keeps the sum (`attention.accumulated`) and moves it with the entries. It is not divided
by age, as in the paper, so old entries lead and young ones need protection: the paper splits the
budget evenly between heavy hitters and newest. We protect a quarter: a quarter to a half did well
on the pocket models (16 tokens alone collapsed), and half of a small budget leaves no room between
a prompt and the reclaim. Requests may ask for more with `recent_tokens`. Sinks are the budget's; no
pooling; of equals the newer stays.

Not counted, so that the query ring suffices: queries of a prompt that came from the prefix cache,
and of a prefill chunk longer than the ring all but the newest. Sliding-window layers are counted as
if they had no window (engine/mass.py).
"""

from dataclasses import dataclass

import torch

from engine.eviction.base import CacheView, EvictionPolicy


@dataclass(frozen=True)
class H2O(EvictionPolicy):
    """Ranks by attention received so far."""

    name = "h2o"
    summary = "entries that received most attention so far (H2O, arXiv 2306.14048)"
    recent_share = 0.25
    needs_keys = False
    needs_mass = True

    def score(self, view: CacheView) -> torch.Tensor:
        assert view.mass is not None
        return view.mass
