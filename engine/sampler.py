"""Draws the next tokens: per-row settings, and a draw that depends on the request alone.

The only random number of a row is a hash of (seed, output index, position), so a request draws the
same tokens whatever shares its batch, as far as its logits agree. Order of the filters: repetition
penalty, temperature, top-k, top-p, min-p, as in transformers.
"""

from dataclasses import dataclass

import numpy as np
import torch

from kernels.sample import sample
from scheduler.plan import TopLogprobs

_MASK = (1 << 64) - 1
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def state_of(seed: int, output: int) -> int:
    """State of a row's numbers, [0, 2**64): splitmix64 over seed and output index.

    Steele et al. 2014, "Fast splittable pseudorandom number generators".
    """
    state = 0
    for part in (seed, output):
        state = (state + part + _STEP) & _MASK
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK
        state ^= state >> 31
    return state


def uniform(states: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each draw: one more round of splitmix64, its upper 24 bits.

    Args:
        states: [draws] uint64, of their rows.
        positions: [draws] int64, logical positions of the tokens that are drawn.

    Returns:
        [draws] float32.
    """
    state = states + positions.astype(np.uint64) + np.uint64(_STEP)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    state ^= state >> np.uint64(31)
    numbers: np.ndarray = (state >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return numbers


@dataclass(frozen=True)
class Draws:
    """The rows of a step that are drawn from, on the device."""

    tokens: torch.Tensor  # [draws] int64, packed tokens whose logits are drawn from
    rows: torch.Tensor  # [draws] int64, of their sequences
    temperatures: torch.Tensor  # [draws] float32; 0: the largest logit
    top_ks: torch.Tensor  # [draws] int32; 0: off
    top_ps: torch.Tensor  # [draws] float32
    min_ps: torch.Tensor  # [draws] float32
    numbers: torch.Tensor  # [draws] float32, in [0, 1)


class LastTokens:
    """The token drawn last in every row, on the device: the input of its next decode."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._tokens = torch.zeros(rows + 1, dtype=torch.int64, device=device)

    def fill_in(self, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """`ids` ([tokens] int64), with the last token of its row for each that is negative."""
        return torch.where(ids < 0, self._tokens[rows], ids)

    def keep(self, draws: Draws, tokens: torch.Tensor) -> None:
        """Stores what was drawn; a row that failed goes on with token 0 until its end is known."""
        self._tokens[draws.rows] = tokens.clamp(min=0)


def draw(logits: torch.Tensor, draws: Draws, impl: str | None) -> torch.Tensor:
    """One token per row, [draws] int64; -1 where the logits are not finite.

    Args:
        logits: [draws, vocabulary], any floating type; not changed.
        draws: their settings.
        impl: see `kernels.impl`.
    """
    return sample(
        logits,
        draws.temperatures,
        draws.top_ks,
        draws.top_ps,
        draws.min_ps,
        draws.numbers,
        impl=impl,
    )


class SeenTokens:
    """Which tokens each row's sequence holds, for the repetition penalty of CTRL.

    arXiv 1909.05858: logits of seen tokens lose, whatever their sign. Memory (a byte for each row
    and token of the vocabulary) is taken when a request first asks for it.
    """

    def __init__(self, rows: int, vocabulary: int, device: torch.device) -> None:
        self._shape, self._device = (rows + 1, vocabulary), device
        self._seen: torch.Tensor | None = None

    def begin(self, row: int, tokens: list[int]) -> None:
        """A sequence with these tokens comes to a row."""
        if self._seen is None:
            self._seen = torch.zeros(self._shape, dtype=torch.bool, device=self._device)
        self._seen[row] = False
        self._seen[row, torch.tensor(tokens, device=self._device)] = True

    def add(self, rows: torch.Tensor, ids: torch.Tensor) -> None:
        """Tokens ([tokens] int64, with their rows) that a step runs."""
        assert self._seen is not None, "nobody began"
        self._seen[rows, ids] = True

    def penalised(
        self, logits: torch.Tensor, rows: torch.Tensor, penalties: torch.Tensor
    ) -> torch.Tensor:
        """`logits` [draws, vocabulary] with the penalties ([draws] float32) of their rows."""
        assert self._seen is not None, "nobody began"
        factors = penalties[:, None].to(logits.dtype)
        punished = torch.where(logits > 0, logits / factors, logits * factors)
        return torch.where(self._seen[rows], punished, logits)


class TopLogprobsInFlight:
    """Log-probabilities of the drawn tokens and of the alternatives asked for, of raw logits."""

    def __init__(self, logits: torch.Tensor, counts: np.ndarray, tokens: torch.Tensor) -> None:
        """`counts` [draws]: alternatives each row asks for; negative: it did not ask."""
        self._counts = counts
        asked = torch.from_numpy(np.flatnonzero(counts >= 0)).to(logits.device)
        scores = logits[asked].float().log_softmax(dim=-1)
        best = scores.topk(int(counts.max()))
        drawn = tokens[asked].clamp(min=0)[:, None]
        found = (scores.gather(1, drawn)[:, 0], best.indices, best.values)
        # copied now, like the tokens: reading it later would wait for the step launched since
        self._found = [tensor.to("cpu", non_blocking=True) for tensor in found]

    def result(self, tokens: list[int | None]) -> list[TopLogprobs | None]:
        """One entry per row; None for rows that did not ask, or whose logits are not finite.

        To be called when the step is over.
        """
        asked = iter(zip(*(tensor.tolist() for tensor in self._found), strict=True))
        found: list[TopLogprobs | None] = []
        for count, token in zip(self._counts.tolist(), tokens, strict=True):
            if count < 0:
                found.append(None)
                continue
            drawn, ids, values = next(asked)
            top = list(zip(ids[:count], values[:count], strict=True))
            found.append(None if token is None else TopLogprobs(drawn, top))
        return found
