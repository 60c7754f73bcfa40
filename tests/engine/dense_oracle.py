"""A budgeted decode without pages, packing, rings or moves in place: one sequence, token by token.

Everything the engine does around a policy's ranking (paging, query ring, lazily counted attention,
compaction) is done here in the plainest way there is. The ranking itself is the engine's policy
(`by_policy`), or whatever else says which slots stay.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AttentionInterface

from engine.eviction import POLICIES
from engine.eviction.base import KEPT_FIRST, CacheView, build
from scheduler.budget import Budget
from scheduler.request import Request

Keep = Callable[[CacheView, Budget], torch.Tensor]
"""(view of one sequence, its budget) -> slots that stay, [layers, kv_heads, kept] ascending."""


def by_policy(view: CacheView, budget: Budget) -> torch.Tensor:
    """What the engine's own policy would keep."""
    policy = build(POLICIES[budget.policy], budget.policy_settings)
    if policy.whole_blocks:
        return _without_blocks(policy.score(view)[0], budget)
    pinned, recent = torch.tensor([budget.pinned]), torch.tensor([budget.recent])
    return policy.select(view, budget.keep, pinned=pinned, recent=recent)[0]


def _without_blocks(scores: torch.Tensor, budget: Budget) -> torch.Tensor:
    """The slots that are left without the lowest blocks; a block is every so many entries."""
    tokens, size = scores.shape[-1], budget.unit
    means = {}
    for start in range(0, tokens - budget.recent - size + 1, size):
        if start >= budget.pinned:
            means[start] = float(scores[..., start : start + size].double().mean())
    gone = sorted(means, key=lambda start: means[start])[: (tokens - budget.keep) // size]
    kept = [slot for slot in range(tokens) if slot // size * size not in gone]
    assert len(kept) == budget.keep
    return torch.tensor(kept).expand(*scores.shape[:-1], -1)


@dataclass
class Layer:
    """One layer's cache: each head has its own list of entries."""

    keys: torch.Tensor  # [kv_heads, entries, head_dim]
    values: torch.Tensor
    positions: torch.Tensor  # [kv_heads, entries]
    mass: torch.Tensor  # [kv_heads, entries]
    queries: list[torch.Tensor]  # [heads, head_dim] each, all since the start


class DenseDecoder:
    """Decodes one request greedily under its budget.

    Args:
        load: makes the model, with attention of the given name.
        request: what to decode.
        ring: recent queries that a view shows.
        keep: ranks.
        frequencies: as CacheView has them.
        artifact: as CacheView has it.
        rounds: entries left by position, where rounds come; None: one whenever the cap is reached.
    """

    def __init__(
        self,
        load: Callable[[str], Any],
        request: Request,
        ring: int,
        keep: Keep = by_policy,
        frequencies: torch.Tensor | None = None,
        artifact: Mapping[str, torch.Tensor] | None = None,
        rounds: Mapping[int, int] | None = None,
    ) -> None:
        AttentionInterface.register("dense_oracle", self._attend)
        self._model = load("dense_oracle")
        self._request = request
        self._ring = ring
        self._keep = keep
        self._frequencies = frequencies
        self._artifact = artifact
        self._told = rounds
        self._layers: dict[int, Layer] = {}
        self._importance: list[float] = []  # of every token so far
        self._position = 0
        self.rounds = 0

    def decode(self) -> list[int]:
        """The drawn tokens."""
        tokens = list(self._request.prompt)
        budget = self._request.budget
        assert budget is not None
        while len(tokens) < len(self._request.prompt) + self._request.max_new_tokens:
            held = self._layers[0].keys.shape[1] if self._layers else 0
            told = {} if self._told is None else self._told
            left = told.get(self._position, held)
            if self._told is None and held == budget.cap:
                left = budget.keep
            if left < held:
                self._evict(replace(budget, cap=held, reclaim=held - left))
            output = self._model(
                input_ids=torch.tensor([[tokens[self._position]]]),
                position_ids=torch.tensor([[self._position]]),
                use_cache=False,
                output_hidden_states=True,
            )
            logits = output.logits
            self._importance.append(self._predicted(tokens, output.hidden_states[-1][0, 0]))
            self._position += 1
            if self._position == len(tokens):
                tokens.append(int(logits[0, -1].argmax()))
        return tokens[len(self._request.prompt) :]

    def _attend(
        self, module: Any, query: Any, key: Any, value: Any, mask: Any, **settings: Any
    ) -> tuple[torch.Tensor, None]:
        query, key, value = query[0, :, 0], key[0], value[0]  # [heads, dim], [kv_heads, 1, dim]
        heads, kv_heads = query.shape[0], key.shape[0]
        here = torch.full((kv_heads, 1), self._position)
        old = self._layers.get(module.layer_idx)
        if old is None:
            layer = Layer(key, value, here, key.new_zeros(kv_heads, 1), [])
        else:
            layer = Layer(
                torch.cat([old.keys, key], 1),
                torch.cat([old.values, value], 1),
                torch.cat([old.positions, here], 1),
                torch.cat([old.mass, key.new_zeros(kv_heads, 1)], 1),
                old.queries,
            )
        self._layers[module.layer_idx] = layer
        layer.queries.append(query)
        outputs = []
        for head in range(heads):
            group = head * kv_heads // heads
            scores = layer.keys[group] @ query[head] * settings["scaling"]
            window = settings.get("sliding_window") or self._position + 1
            hidden = self._position - layer.positions[group] >= window
            weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            layer.mass[group] += weights
            outputs.append(weights @ layer.values[group])
        return torch.stack(outputs)[None, None], None

    def _evict(self, budget: Budget) -> None:
        self.rounds += 1
        layers = [self._layers[i] for i in sorted(self._layers)]
        newest = [torch.stack(layer.queries[-self._ring :], 1) for layer in layers]
        missing = self._ring - newest[0].shape[1]
        queries = torch.nn.functional.pad(torch.stack(newest)[None], (0, 0, missing, 0))
        query_positions = torch.arange(self._position - self._ring, self._position)[None]
        positions = torch.stack([layer.positions for layer in layers])[None]
        view = CacheView(
            keys=torch.stack([layer.keys for layer in layers])[None],
            values=torch.stack([layer.values for layer in layers])[None],
            positions=positions.int(),
            queries=queries,
            query_positions=query_positions.clamp(min=-1).int(),
            mass=torch.stack([layer.mass for layer in layers])[None],
            scale=self._model.config.head_dim**-0.5,
            seeds=torch.tensor([self._seed()]),
            prompt_tokens=torch.tensor([len(self._request.prompt)]),
            frequencies=self._frequencies,
            artifact=self._artifact,
            importance=torch.tensor(self._importance)[positions.long()],
        )
        kept = self._keep(view, budget)
        for layer, indices in zip(layers, kept, strict=True):
            layer.positions = layer.positions.gather(1, indices)
            layer.mass = layer.mass.gather(1, indices)
            entries = indices[..., None].expand(-1, -1, layer.keys.shape[-1])
            layer.keys = layer.keys.gather(1, entries)
            layer.values = layer.values.gather(1, entries)

    def _predicted(self, tokens: list[int], hidden: torch.Tensor) -> float:
        """DynTS' importance of the token at this position; large from the end of thinking on."""
        artifact = self._artifact or {}
        if "end_ids" not in artifact:
            return 0.0
        thought = tokens[len(self._request.prompt) : self._position + 1]
        if set(thought) & set(artifact["end_ids"].tolist()):
            return KEPT_FIRST
        hidden = hidden.double()
        for name in ("first", "second", "last"):
            hidden = (artifact[name].double() @ hidden).exp().log1p()
        return float(hidden)

    def _seed(self) -> int:
        """Of this round of the request's first output."""
        text = f"{self._request.sampling.seed}/0/{self.rounds}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
