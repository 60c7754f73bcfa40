"""What sample means, in torch: float64, by a sort of each row."""

from math import log

import torch
from torch import Tensor

LEAST_EXPONENT = -126 * log(2)  # of an entry that has mass


def sample(
    logits: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    numbers: Tensor,
) -> Tensor:
    """See `kernels.sample.sample`; also raises ValueError for a setting outside its range."""
    _check_ranges(temperatures, top_ks, top_ps, min_ps, numbers)
    finite = torch.isfinite(logits.amax(dim=-1))  # NaN and +inf reach the maximum
    scores = torch.where(finite[:, None], logits, 0.0).double()
    greedy = temperatures == 0
    temperature = torch.where(greedy, 1.0, temperatures).double()[:, None]
    exponents = (scores - scores.amax(dim=-1, keepdim=True)) / temperature
    weights = torch.where(exponents < LEAST_EXPONENT, 0.0, exponents.exp())  # the largest is 1

    vocabulary = logits.shape[1]
    ordered, order = scores.sort(dim=-1, descending=True)
    last = torch.where(top_ks == 0, vocabulary, top_ks).long().clamp(max=vocabulary) - 1
    weights = weights.masked_fill(scores < ordered.gather(1, last[:, None]), 0.0)

    above = torch.searchsorted(-ordered, -scores)  # how many entries are strictly larger
    sums = torch.nn.functional.pad(weights.gather(1, order).cumsum(dim=-1), (1, 0))
    limits = top_ps.double()[:, None] * sums[:, -1:]
    kept = (sums.gather(1, above) < limits) | (above == 0) | (top_ps[:, None] >= 1)
    kept &= weights >= min_ps.double()[:, None]

    mass = (weights * kept).cumsum(dim=-1)
    drawn = torch.searchsorted(mass, numbers.double()[:, None] * mass[:, -1:], right=True)[:, 0]
    tokens = torch.where(greedy, scores.argmax(dim=-1), drawn)
    return torch.where(finite, tokens, -1)


def _check_ranges(
    temperatures: Tensor, top_ks: Tensor, top_ps: Tensor, min_ps: Tensor, numbers: Tensor
) -> None:
    below_one = 1 - 2**-24  # the largest float32 below 1
    for name, values, most, allowed in (
        ("temperatures", temperatures, torch.finfo(torch.float32).max, "finite, 0 or more"),
        ("top_ks", top_ks, torch.iinfo(torch.int32).max, "0 or more"),
        ("top_ps", top_ps, 1, "0 to 1"),
        ("min_ps", min_ps, 1, "0 to 1"),
        ("numbers", numbers, below_one, "0 up to but not 1"),
    ):
        wrong = ~((values >= 0) & (values <= most))
        if bool(wrong.any()):
            raise ValueError(f"{name} has {values[wrong][0].item()}; allowed: {allowed}")
