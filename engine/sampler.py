"""Draws the next tokens: per-row settings, and a draw that depends on the request alone.

The only random number of a row is a hash of (seed, output index, position), so a request draws the
same tokens whatever shares its batch, as far as its logits agree. Order of the filters: repetition
penalty, temperature, top-k, top-p, min-p, as in transformers.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from scheduler.plan import TopLogprobs
from scheduler.request import Sampling

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Draw:
    """One row of logits to draw from."""

    sampling: Sampling
    output: int  # index among the request's outputs
    tokens: list[int]  # prompt and what was drawn so far; its length is the position


def uniform(seed: int, output: int, position: int) -> float:
    """A number in [0, 1) for one draw: splitmix64 over its three coordinates.

    Steele et al. 2014, "Fast splittable pseudorandom number generators".
    """
    state = 0
    for part in (seed, output, position):
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return (state >> 11) / (1 << 53)


def sample(logits: torch.Tensor, draws: Rows[Draw]) -> list[int | None]:
    """One token per row; None where the logits are not finite (NaN, +inf, or all -inf).

    Args:
        logits: [rows, vocabulary], any floating type; not changed.
        draws: one per row.
    """
    finite = torch.isfinite(logits.amax(dim=-1))  # NaN and +inf reach the maximum
    if any(draw.sampling.repetition_penalty != 1.0 for draw in draws):
        logits = _penalised(logits, draws)
    tokens = logits.argmax(dim=-1)
    sampled = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if sampled:
        safe = torch.where(finite[:, None], logits, 0.0)
        rows = torch.tensor(sampled, device=logits.device)
        tokens[rows] = _sampled(safe[rows].float(), [draws[i] for i in sampled])
    drawn: list[int] = tokens.tolist()
    return [token if ok else None for token, ok in zip(drawn, finite.tolist(), strict=True)]


def top_logprobs(
    logits: torch.Tensor, draws: Rows[Draw], tokens: Rows[int | None]
) -> list[TopLogprobs | None] | None:
    """Log-probabilities of the drawn tokens and of the alternatives asked for, of raw logits.

    Returns:
        One entry per row, None for rows that did not ask; None if no row did.
    """
    asked = [draw.sampling.logprobs for draw in draws]
    if all(count is None for count in asked):
        return None
    found: list[TopLogprobs | None] = []
    for row, (count, token) in enumerate(zip(asked, tokens, strict=True)):
        if count is None or token is None:
            found.append(None)
            continue
        scores = logits[row].float().log_softmax(dim=-1)
        best = scores.topk(count)
        top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        found.append(TopLogprobs(float(scores[token]), top))
    return found


def _penalised(logits: torch.Tensor, draws: Rows[Draw]) -> torch.Tensor:
    """Repetition penalty of CTRL (arXiv 1909.05858): seen tokens lose, whatever their sign."""
    logits = logits.clone()
    for row, draw in enumerate(draws):
        penalty = draw.sampling.repetition_penalty
        if penalty != 1.0:
            seen = torch.tensor(sorted(set(draw.tokens)), device=logits.device)
            scores = logits[row, seen]
            logits[row, seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits


def _sampled(logits: torch.Tensor, draws: Rows[Draw]) -> torch.Tensor:
    """Inverse of the cumulative distribution at each row's number, [rows] int64."""

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    settings = [draw.sampling for draw in draws]
    vocabulary = logits.shape[-1]
    temperature = column([s.temperature for s in settings])
    top_k = column([float(s.top_k or vocabulary) for s in settings])
    top_p = column([s.top_p for s in settings])
    min_p = column([s.min_p for s in settings])
    numbers = column([uniform(d.sampling.seed, d.output, len(d.tokens)) for d in draws])
    ordered, ids = (logits.double() / temperature).sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(vocabulary, device=logits.device)
    probabilities = ordered.masked_fill(rank >= top_k, -torch.inf).softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # Rounding may put `before` of the first token a hair above 0: it is always kept.
    kept = ((before < top_p) & (probabilities >= min_p * probabilities[:, :1])) | (rank == 0)
    mass = (probabilities * kept).cumsum(dim=-1)
    chosen = torch.searchsorted(mass, numbers * mass[:, -1:], right=True)
    chosen = torch.minimum(chosen, kept.sum(dim=-1, keepdim=True) - 1)
    return ids.gather(1, chosen)[:, 0]
