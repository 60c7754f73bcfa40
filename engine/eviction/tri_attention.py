"""Keep the keys that the model's average query attends to, now and at distances to come.

TriAttention, 2026, arXiv 2604.04921, and the code of its authors. Before their rotary embedding the
queries of a head gather around a centre. Offline, of each query head and rotary frequency w_f:
    c_f = mean of q_f as a complex number,  a_f = mean of |q_f|
A key k at position p, not rotated, is scored from position t, the next one, and D = 1, 2, 4 ...
65536 positions later:
    s(p) = mean over D of sum_f |c_f||k_f| cos(w_f (t - p + D) + arg(c_f conj(k_f)))
           + sum_f (a_f - |c_f|) |k_f|
each query head's s less its mean over the decoded entries, divided by their standard deviation.
`selection` says what is then compared:
    0  per head: mean over layers of the maximum over the KV head's group; one set for each KV head
    1  union: maximum over all heads; one set. The authors keep the best of what any head would
       keep, by this maximum; that is the best of all, for what leads by its maximum is among the
       best of the head that gave it
    2  per layer: the maximum over the group; a set for each layer and KV head
Slots are compared across layers (0, 1) and heads (1), which hold the same tokens there from the
first round on. kernels/trigonometric_score reads the keys as they lie in the cache, rotated.

Choices: entries of the prompt (which the budget pins unless told otherwise) are scored alike, by
mean and deviation of the decoded ones; of all where nothing was decoded yet. No noise is added to
break ties.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from engine.eviction.base import CacheView, EvictionPolicy, setting
from engine.kv_pool import KvShape
from kernels.trigonometric_score import trigonometric_score

LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class TriAttention(EvictionPolicy):
    """Ranks by what calibrated queries would attend to from later positions."""

    name = "tri_attention"
    summary = "keys that the average query attends to (TriAttention, arXiv 2604.04921)"
    needs_frequencies = True
    needs_artifact = True

    selection: int = setting(
        0, 0, 2, "0: one set per KV head for all layers; 1: one set; 2: per layer and KV head"
    )

    @classmethod
    def artifact_complaint(cls, artifact: Mapping[str, torch.Tensor], shape: KvShape) -> str:
        heads = (shape.layers, shape.heads)
        sizes = {"q_mean": (*heads, shape.head_dim), "q_abs": (*heads, shape.head_dim // 2)}
        for name, wanted in sizes.items():
            found = tuple(artifact[name].shape) if name in artifact else "missing"
            if found != wanted:
                return f"its {name} is {found}, where this model needs {wanted}"
        return ""

    def score(self, view: CacheView) -> torch.Tensor:
        scores = _normalised(_scores(view), view)
        best = scores.amax(dim=3)  # [sequences, layers, kv_heads, tokens]
        if self.selection == 0:
            return best.mean(dim=1, keepdim=True).expand_as(best)
        if self.selection == 1:
            return best.amax(dim=(1, 2), keepdim=True).expand_as(best)
        return best


def _scores(view: CacheView) -> torch.Tensor:
    """s, [sequences, layers, kv_heads, group, tokens]."""
    assert view.artifact is not None
    assert view.frequencies is not None
    scores = trigonometric_score(
        view.keys,
        view.positions[:, 0, 0, -1] + 1,
        view.artifact["q_mean"],
        view.artifact["q_abs"],
        view.frequencies,
        impl=view.impl,
    )
    return scores.unflatten(2, (view.keys.shape[2], -1))


def _normalised(scores: torch.Tensor, view: CacheView) -> torch.Tensor:
    """`scores` in standard deviations above the mean of the decoded entries."""
    decoded = (view.positions >= view.prompt_tokens[:, None, None, None].int()).float()
    count = decoded.sum(dim=-1, keepdim=True)
    weights = torch.where(count > 0, decoded / count.clamp(min=1), 1 / decoded.shape[-1])
    weights = weights[:, :, :, None]  # the same for all heads of a group
    deviations = scores - (scores * weights).sum(dim=-1, keepdim=True)
    deviation = (deviations.square() * weights).sum(dim=-1, keepdim=True).sqrt()
    return deviations / deviation.clamp(min=LEAST_DEVIATION)
