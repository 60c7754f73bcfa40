"""Drop what will be missed least: unlikely to be looked up, or a newer entry stands in for it.

Ours; no paper. docs/log.md has the ablation.
    s_j = (p(k_j) + floor) d_j
    p(k) = sigmoid(w_2 · relu(W_1 k + b_1) + b_2), of each layer and KV head
    d_j  = the smallest |x_j - x_i| to a newer entry i, or 0 below STILL;  x = W_x [k, v] + b_x
k is the key without its rotary embedding, v the value. p is trained (tools/calibrate/regret.py) on
traces that the model generated, to tell which keys some query of the group will attend to with
more than a tenth of its attention, well after they were written. x holds the principal components
of keys and values there: half as many numbers as a key has, in units of the keys' spread.

A reasoning trace that looks something up writes it down again: a newer entry then says the same
(d = 0), and the old one is never missed, however often it was attended to. An entry without such a
copy is missed as likely as its kind is looked up, which attention so far cannot tell: in long
traces the first look-up often comes after the entry would be gone. Of copies the newest stays.
Rotated keys do not show copies, since position turns them; keys alone mistake a changed value for a
copy. The floor keeps apart what the predictor is sure of. No queries are needed. A quarter of the
budget is protected as newest: positional heads want it, and the first layer's copies are exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from engine.eviction.base import KEPT_FIRST, CacheView, EvictionPolicy, setting
from engine.kv_pool import KvShape

UNITS = 16  # hidden ones of the predictor
STILL = 0.01  # distances below are rounding: in the first layer copies are equal but for their turn
_ROWS = 32  # of one block of distances


def artifact_shapes(shape: KvShape) -> dict[str, tuple[int, ...]]:
    """The tensors that `score` reads, for a model of that shape."""
    heads, dim = (shape.layers, shape.kv_heads), shape.head_dim
    return {
        "place_weight": (*heads, 2 * dim, dim // 2),  # W_x; keys' rows, then values'
        "place_bias": (*heads, dim // 2),
        "need_weight": (*heads, dim, UNITS),  # W_1
        "need_bias": (*heads, UNITS),
        "need_out": (*heads, UNITS),  # w_2
        "need_shift": heads,  # b_2
    }


@dataclass(frozen=True)
class Regret(EvictionPolicy):
    """Ranks by how likely an entry is looked up, times how far the nearest newer entry is."""

    name = "regret"
    summary = (
        "what is likely to be looked up and no newer entry stands in for (learned; docs/log.md)"
    )
    recent_share = 0.25
    needs_values = True
    needs_frequencies = True
    needs_artifact = True

    floor: float = setting(0.01, 0, 1, "added to the predicted probability of a look-up")

    @classmethod
    def artifact_complaint(cls, artifact: Mapping[str, torch.Tensor], shape: KvShape) -> str:
        for name, wanted in artifact_shapes(shape).items():
            found = tuple(artifact[name].shape) if name in artifact else "missing"
            if found != wanted:
                return f"its {name} is {found}, where this model needs {wanted}"
        return ""

    def score(self, view: CacheView) -> torch.Tensor:
        assert view.artifact is not None
        keys = unrotated(view)
        places = torch.cat([keys, view.values], dim=-1) @ view.artifact["place_weight"].float()
        places += view.artifact["place_bias"][:, :, None]
        distance = nearest_newer(places.flatten(0, 2)).view(keys.shape[:4])
        return (look_up_probability(keys, view.artifact) + self.floor) * distance


def unrotated(view: CacheView) -> torch.Tensor:
    """The keys without their rotary embedding, shaped alike."""
    assert view.frequencies is not None
    layers, half = view.frequencies.shape
    # Angles by position, since entries of all heads and sequences share most of theirs.
    length = int(view.positions[:, 0, 0, -1].max()) + 1
    positions = torch.arange(length, device=view.keys.device)
    angles = positions[:, None] * view.frequencies[:, None]  # [layers, length, half] float64
    angles = (angles - (angles * (0.5 / torch.pi)).floor() * (2 * torch.pi)).float()
    table = torch.cat([angles.cos(), angles.sin()], dim=-1).view(layers * length, 2 * half)
    first_row = torch.arange(layers, device=table.device)[:, None, None] * length
    turns = table.index_select(0, (view.positions + first_row).flatten())
    cosine, sine = turns.view(*view.keys.shape).split(half, dim=-1)
    first, second = view.keys.split(half, dim=-1)
    keys = torch.empty_like(view.keys)
    torch.addcmul(first * cosine, second, sine, out=keys[..., :half])
    torch.addcmul(second * cosine, first, sine, value=-1, out=keys[..., half:])
    return keys


def look_up_probability(keys: torch.Tensor, artifact: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """p of unrotated keys [sequences, layers, kv_heads, tokens, head_dim]; without the last."""
    units = keys @ artifact["need_weight"].float() + artifact["need_bias"][:, :, None]
    logits = units.relu_() @ artifact["need_out"].float()[..., None]
    return (logits.squeeze(-1) + artifact["need_shift"][..., None]).sigmoid()


def nearest_newer(places: torch.Tensor) -> torch.Tensor:
    """Distance of each place to the nearest newer one, 0 below STILL; KEPT_FIRST of the newest.

    Args:
        places: [caches, tokens, dim] float32, oldest first.

    Returns:
        [caches, tokens].
    """
    caches, tokens, _ = places.shape
    squares = places.square().sum(dim=-1)
    # |x - y|^2 = |x|^2 + (-2 x, 1) · (y, |y|^2)
    asking = torch.cat([-2 * places, torch.ones_like(squares)[..., None]], dim=-1)
    asked = torch.cat([places, squares[..., None]], dim=-1).mT.contiguous()
    nearest = places.new_empty(caches, tokens)
    older = torch.full((_ROWS, _ROWS), KEPT_FIRST, device=places.device).tril()
    for start in range(0, tokens, _ROWS):
        rows = asking[:, start : start + _ROWS]
        squared = torch.bmm(rows, asked[:, :, start:])  # [caches, rows, from start on], less |x|^2
        own = rows.shape[1]
        squared[:, :, :own] += older[:own, :own]
        torch.amin(squared, dim=-1, out=nearest[:, start : start + _ROWS])
    distance = (nearest + squares).clamp(0, KEPT_FIRST).sqrt()
    return distance.where(distance >= STILL, 0)
