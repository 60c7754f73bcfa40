"""Keep the thinking tokens that a trained predictor expects the answer to attend to.

DynTS, Guo et al. 2026, "Dynamic Thinking-Token Selection for Efficient Reasoning in Large Reasoning
Models", arXiv 2601.18383:
    s_j = f(h_j), once, when token j is computed; h_j its last hidden state (after the last norm)
    f   = Softplus Linear_1 Softplus Linear_m Softplus Linear_n, no biases
trained with the model frozen (tools/calibrate/dynts.py) on the mean squared error to
    I_j = mean over layers, heads and answer positions i of softmax(q_i · K / sqrt(d))_j
where the answer is what follows `</think>`. One number per token: the same ranking in every layer
and head. Tokens of the question, `</think>` and the answer are kept first; among them, the newer.
No attention is needed while decoding.

Choices: the paper has n = 8192 and m = 2048 for hidden sizes of 3584 and 4096; ours are
min(8192, 8 d) and min(2048, 2 d), the same there and small for small models. Importance is learned
in units of its mean over the training tokens, which ranks alike. The paper prunes to a local window
and a share of the rest; here the budget says how many stay and which newest ones are pinned.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import linear, softplus

from engine.eviction.base import KEPT_FIRST, CacheView, EvictionPolicy
from engine.kv_pool import KvShape

WEIGHTS = ("first", "second", "last")


def predictor_shapes(hidden_size: int) -> dict[str, tuple[int, int]]:
    """Weights of the predictor, [out, in] each, for hidden states of that size."""
    wide, narrow = min(8192, 8 * hidden_size), min(2048, 2 * hidden_size)
    return {"first": (wide, hidden_size), "second": (narrow, wide), "last": (1, narrow)}


@dataclass(frozen=True)
class DynTS(EvictionPolicy):
    """Ranks by predicted importance to the answer."""

    name = "dynts"
    summary = "tokens predicted to matter for the answer, learned (DynTS, arXiv 2601.18383)"
    needs_keys = False
    needs_artifact = True
    needs_importance = True

    @classmethod
    def artifact_complaint(cls, artifact: Mapping[str, torch.Tensor], shape: KvShape) -> str:
        if "end_ids" not in artifact:
            return "its end_ids are missing"
        for name, wanted in predictor_shapes(shape.hidden_size).items():
            found = tuple(artifact[name].shape) if name in artifact else "missing"
            if found != wanted:
                return f"its {name} is {found}, where this model needs {wanted}"
        return ""

    @classmethod
    def predict(cls, artifact: Mapping[str, torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
        for name in WEIGHTS[:-1]:
            hidden = softplus(linear(hidden, artifact[name]))
        # The last sum decides between tokens; half precision would make many of them equal.
        return softplus(linear(hidden.float(), artifact[WEIGHTS[-1]].float())).squeeze(-1)

    def score(self, view: CacheView) -> torch.Tensor:
        assert view.importance is not None
        asked = view.positions < view.prompt_tokens[:, None, None, None]
        return view.importance.masked_fill(asked, KEPT_FIRST)
