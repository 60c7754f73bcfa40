"""Keep what future queries are expected to attend to, weighted by the length of the value.

Expected Attention, Devoto et al. 2025, arXiv 2510.00636, and its press in NVIDIA's kvpress:
    z_j = mu · k_j / sqrt(d) + k_j^T Sigma k_j / (2 d)
    s_j = (mean over the query heads of the KV head's group of softmax_j(z) + epsilon) |v_j|
If queries are normal, exp(z_j) is the expected exp(q · k_j / sqrt(d)). mu and Sigma are mean and
covariance of the queries before their rotary embedding, then turned by R, the mean rotation of the
next `future_tokens` positions: R mu and R Sigma R^T (as in kvpress, which leaves out the spread of
the rotations). Keys carry their own embedding.

Choices: queries are the newest `window` of the ring, their embedding taken off by position; kvpress
computes them anew from all hidden states but the first four, which a paged cache does not keep. The
softmax runs over the whole cache, where kvpress leaves out four sinks and keeps them: what is
pinned is the budget's business. Sigma divides by the number of queries, as there. k^T Sigma k is
the mean square of k · (q - mu): no matrix is built. Without any query every z is 0.
"""

from dataclasses import dataclass

import torch

from engine.eviction.base import CacheView, EvictionPolicy, setting
from engine.eviction.rotation import as_complex, as_vectors, turn


@dataclass(frozen=True)
class ExpectedAttention(EvictionPolicy):
    """Ranks by the attention that queries like the recent ones would pay from later positions."""

    name = "expected_attention"
    summary = "attention expected from future queries (Expected Attention, arXiv 2510.00636)"
    needs_values = True
    needs_frequencies = True

    window: int = setting(16, 1, 32, "newest queries that mean and covariance are taken of")
    future_tokens: int = setting(512, 1, 8192, "positions ahead over which rotations are averaged")
    covariance: int = setting(1, 0, 1, "1: with the spread of the queries; 0: their mean only")
    epsilon: float = setting(0.0, 0, 1, "added to the attention before the value's length counts")

    @property
    def needs_queries(self) -> int:
        return self.window

    def score(self, view: CacheView) -> torch.Tensor:
        attention = self._logits(view).softmax(dim=-1).mean(dim=3)
        return (attention + self.epsilon) * view.values.square().sum(dim=-1).sqrt()

    def _logits(self, view: CacheView) -> torch.Tensor:
        """z, [sequences, layers, kv_heads, group, tokens]."""
        sequences, layers, kv_heads, tokens, head_dim = view.keys.shape
        queries, present = self._ahead(view)
        count = present.sum(dim=1).clamp(min=1)[:, None, None, None, None]
        mean = queries.sum(dim=3, keepdim=True) / count
        rows = mean
        if self.covariance:
            # Scaled by 1 / sqrt(2 n): then half of the mean square is the sum of squares.
            shares = present[:, None, None, :, None] / (2 * count).sqrt()
            rows = torch.cat([mean, (queries - mean) * shares], dim=3)
        grouped = rows.reshape(sequences * layers * kv_heads, -1, head_dim)
        products = grouped @ view.keys.flatten(0, 2).mT
        products = products.view(sequences, layers, kv_heads, -1, rows.shape[3], tokens)
        logits = products[..., 0, :]
        if self.covariance:
            logits = logits + products[..., 1:, :].square_().sum(dim=-2)
        return logits

    def _ahead(self, view: CacheView) -> tuple[torch.Tensor, torch.Tensor]:
        """The queries, scaled, at the mean of the future positions, and which of them exist.

        Returns:
            [sequences, layers, heads, queries, head_dim], zero where there is none, and
            [sequences, queries], both float32.
        """
        assert view.queries is not None
        assert view.query_positions is not None
        assert view.frequencies is not None
        asked_at = view.query_positions[:, -self.window :]
        next_position = view.positions[:, 0, 0, -1:] + 1
        distance = (next_position - asked_at)[:, None, :, None]  # [sequences, 1, queries, 1]
        steps = self.future_tokens
        half = view.frequencies[:, None, :] / 2  # [layers, 1, head_dim / 2]
        # Mean of exp(i w n) over n = 0 ... steps - 1, as a geometric series: a turn to the middle,
        # shortened by the spread.
        shortened = (steps * half).sin() / (steps * half.sin())
        present = (asked_at >= 0).float()
        lengths = view.scale * shortened * present[:, None, :, None]
        turns = (turn(half * (2 * distance + steps - 1)) * lengths).to(torch.complex64)
        queries = as_complex(view.queries[..., -self.window :, :])
        return as_vectors(queries * turns[:, :, None]), present  # one turn for a layer's heads
