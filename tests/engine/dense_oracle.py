"""A budgeted decode without pages, packing, rings or moves in place: one sequence, token by token.

Shares with the engine only the policies' ranking; everything the engine does around it (paging,
query ring, lazily counted attention, compaction) is done here in the plainest way there is.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

from engine.eviction import POLICIES
from engine.eviction.base import CacheView, build
from engine.views import _seed
from scheduler.budget import Budget
from scheduler.request import Request, Sequence
from tests.engine.models import tiny_model


@dataclass
class Layer:
    """One layer's cache: each head has its own list of entries."""

    keys: torch.Tensor  # [kv_heads, entries, head_dim]
    values: torch.Tensor
    positions: torch.Tensor  # [kv_heads, entries]
    mass: torch.Tensor  # [kv_heads, entries]
    queries: list[torch.Tensor]  # [heads, head_dim] each, all since the start


class DenseDecoder:
    """Decodes one request greedily under its budget."""

    def __init__(self, architecture: str, request: Request, ring: int) -> None:
        AttentionInterface.register("dense_oracle", self._attend)
        self._model = tiny_model(architecture, "dense_oracle")
        self._request = request
        self._ring = ring
        self._layers: dict[int, Layer] = {}
        self._position = 0
        self.rounds = 0

    def decode(self) -> list[int]:
        """The drawn tokens."""
        tokens = list(self._request.prompt)
        budget = self._request.budget
        assert budget is not None
        while len(tokens) < len(self._request.prompt) + self._request.max_new_tokens:
            if self._layers and self._layers[0].keys.shape[1] == budget.cap:
                self._evict(budget)
            logits = self._model(
                input_ids=torch.tensor([[tokens[self._position]]]),
                position_ids=torch.tensor([[self._position]]),
                use_cache=False,
            ).logits
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
            layer = Layer(key, value, here, torch.zeros(kv_heads, 1), [])
        else:
            layer = Layer(
                torch.cat([old.keys, key], 1),
                torch.cat([old.values, value], 1),
                torch.cat([old.positions, here], 1),
                torch.cat([old.mass, torch.zeros(kv_heads, 1)], 1),
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
        sequence = Sequence(self._request, 0, [])
        sequence.usage.eviction_rounds = self.rounds
        view = CacheView(
            keys=torch.stack([layer.keys for layer in layers])[None],
            values=torch.stack([layer.values for layer in layers])[None],
            positions=torch.stack([layer.positions for layer in layers])[None].int(),
            queries=queries,
            query_positions=query_positions.clamp(min=-1).int(),
            mass=torch.stack([layer.mass for layer in layers])[None],
            scale=self._model.config.head_dim**-0.5,
            seeds=torch.tensor([_seed(sequence)]),
        )
        policy = build(POLICIES[budget.policy], budget.policy_settings)
        pinned, recent = torch.tensor([budget.pinned]), torch.tensor([budget.recent])
        kept = policy.select(view, budget.keep, pinned=pinned, recent=recent)[0]
        for layer, indices in zip(layers, kept, strict=True):
            layer.positions = layer.positions.gather(1, indices)
            layer.mass = layer.mass.gather(1, indices)
            entries = indices[..., None].expand(-1, -1, layer.keys.shape[-1])
            layer.keys = layer.keys.gather(1, entries)
            layer.values = layer.values.gather(1, entries)
