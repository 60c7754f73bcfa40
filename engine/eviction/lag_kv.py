"""Keep, of every chunk, the entries that stand out against the chunk that follows.

LagKV, Liang et al. 2025, arXiv 2504.04704, and kvpress. Past the first `sinks` slots the cache is
cut into chunks of L slots, oldest first. For entry j of a chunk, with channel-wise minimum and
maximum over the next chunk's entries:
    u(x)_j = softmax over the chunk of std over channels of (x_j - min) / (max - min)
    s_j = rank within the chunk of (u(k)_j + u(v)_j) / 2, over L: 0 for the lowest, below 1
The sinks score 1. So do the last whole chunk, which has no successor, and what is left over after
it: they stay before all others, as the paper's sliding window. Ranks make every chunk give up its
share; of equal ranks, the older chunk's entry goes first. Equals within a chunk: the older ranks
lower. No queries needed; each KV head ranks its own keys (rotary embedding included) and values.

Choices:
- L is `chunk` (128, as in kvpress), but at most a quarter of the slots past the sinks, so that
  three quarters of a small cache are ranked; at least 2.
- Chunks are of slots, neighbours even where tokens between them are gone. The paper compresses a
  chunk once; here a round ranks all that is left of the cache.
- A channel that is constant over the next chunk counts as 0 (kvpress divides by zero).
- The standard deviation is the unbiased one, as in kvpress.
"""

from dataclasses import dataclass

import torch

from engine.eviction.base import CacheView, EvictionPolicy, setting


@dataclass(frozen=True)
class LagKV(EvictionPolicy):
    """Ranks entries of a chunk by how far they lie outside of the next one."""

    name = "lag_kv"
    summary = "entries that stand out against the chunk after theirs (LagKV, arXiv 2504.04704)"
    needs_values = True

    chunk: int = setting(
        128, 2, 1024, "slots ranked together; at most a quarter of the cache past the sinks"
    )
    sinks: int = setting(4, 0, 64, "oldest slots that outrank all chunks but the last")

    def score(self, view: CacheView) -> torch.Tensor:
        past_sinks = view.keys.shape[3] - self.sinks
        chunk = min(self.chunk, max(past_sinks // 4, 2))
        ranked = past_sinks // chunk - 1  # chunks that have a successor
        score = view.keys.new_ones(view.keys.shape[:4])
        if ranked < 1:
            return score
        whole = slice(self.sinks, self.sinks + (ranked + 1) * chunk)
        keys, values = (
            entries[..., whole, :].unflatten(3, (ranked + 1, chunk))
            for entries in (view.keys, view.values)
        )
        importance = _deviation(keys).softmax(dim=-1) + _deviation(values).softmax(dim=-1)
        ranks = importance.argsort(dim=-1, stable=True).argsort(dim=-1)
        score[..., self.sinks : self.sinks + ranked * chunk] = ranks.flatten(3) / chunk
        return score


def _deviation(chunks: torch.Tensor) -> torch.Tensor:
    """Spread over channels of each entry, in units of the next chunk's range.

    Args:
        chunks: [..., chunks, chunk, head_dim].

    Returns:
        [..., chunks - 1, chunk].
    """
    entries, following = chunks[..., :-1, :, :], chunks[..., 1:, :, :]
    least = following.amin(dim=-2, keepdim=True)
    span = following.amax(dim=-2, keepdim=True) - least
    scaled = ((entries - least) / span).where(span > 0, 0)
    centred = scaled - scaled.mean(dim=-1, keepdim=True)
    return centred.norm(dim=-1) / (scaled.shape[-1] - 1) ** 0.5  # std() is several times slower
