"""Draws one token per row of logits: greedy, or by temperature, top-k, top-p and min-p.

Sources: top-k of Fan et al. 2018, "Hierarchical Neural Story Generation" (arXiv 1805.04833); top-p
(nucleus) of Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (arXiv
1904.09751); min-p of Nguyen et al. 2024, "Turning Up the Heat" (arXiv 2407.01082).
"""

import torch
from torch import Tensor

from kernels.checks import FLOATS, check_tensor, check_vector
from kernels.impl import Impl, implementation

_SETTINGS = ("temperatures", "top_ks", "top_ps", "min_ps", "numbers")


def sample(
    logits: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    numbers: Tensor,
    *,
    impl: Impl | str | None = None,
) -> Tensor:
    """The token each row draws; -1 where its logits are not finite.

    The filters of a row, in this order, each seeing what the one before kept; entries of equal
    logits stay or go together, and the largest always stays:

    1. top-k keeps the entries at or above the k-th largest logit.
    2. top-p keeps an entry if the entries above it hold less than top_p of the probability, which
       is the softmax of logits / temperature over what top-k kept.
    3. min-p keeps an entry if its probability is at least min_p times the largest.

    The draw inverts the cumulative distribution of what is kept, in vocabulary order, at
    numbers[row] times the kept mass. Entries less than 2**-126 times as likely as the largest have
    no mass and are never drawn. A row's token depends on that row alone.

    Args:
        logits: [rows, vocabulary] float32, bfloat16 or float16, last stride 1; not changed. A row
            with a NaN or +inf, or with nothing but -inf, is not finite; single -inf are fine.
        temperatures: [rows] float32, finite, 0 or more; 0 takes the largest logit, of equals the
            first, whatever the other settings.
        top_ks: [rows] int32, 0 or more; 0 keeps all.
        top_ps: [rows] float32, 0 to 1; 1 keeps all.
        min_ps: [rows] float32, 0 to 1; 0 keeps all.
        numbers: [rows] float32 in [0, 1), what each row draws with. The ranges of the settings are
            checked by the reference only.
        impl: None chooses by device; see `kernels.impl`.

    Returns:
        [rows] int64, contiguous.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape, layout or device does not fit, or `impl` cannot take these tensors.
    """
    vectors = (temperatures, top_ks, top_ps, min_ps, numbers)
    _check(logits, vectors)
    tokens: Tensor = implementation("sample", impl, logits)(logits, *vectors)
    return tokens


def _check(logits: Tensor, vectors: tuple[Tensor, ...]) -> None:
    check_tensor("logits", logits, FLOATS, "[rows, vocabulary]", (None, None), logits)
    rows, vocabulary = logits.shape
    if vocabulary == 0 or logits.stride(1) != 1 < vocabulary:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and strides {logits.stride()}; expected "
            "[rows, vocabulary], vocabulary at least 1, with last stride 1"
        )
    for name, vector in zip(_SETTINGS, vectors, strict=True):
        if vector.device != logits.device:
            raise ValueError(
                f"{name} is on {vector.device}, logits on {logits.device}; one device needed"
            )
        dtype = torch.int32 if name == "top_ks" else torch.float32
        check_vector(name, vector, rows, dtype, logits)
