"""Whether two engines drew the same greedy tokens, as far as rounding lets them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Tokens = list[list[int]]

# Logits that differ by less than this, in standard deviations of their row, are a tie that rounding
# may turn. Half-precision attention errs by up to 2e-3 of them on the pocket models, float32 by
# 1e-5; a wrong layout of the weights moves them by whole ones.
NEAR_TIE = 0.01


class Disagreement(ValueError):
    """An engine's tokens are not those of the same model; a ratio of speeds would mean nothing."""


@dataclass(frozen=True)
class Agreement:
    """How far one engine's greedy tokens equal ours; shares in [0, 1]."""

    equal_tokens: float
    identical_requests: float
    equal_first_tokens: float
    turned_ties: int  # requests that part at a near tie, and may differ after it


def compare(
    name: str,
    prompts: Tokens,
    ours: Tokens,
    theirs: Tokens,
    logits: Callable[[Tokens], torch.Tensor],
) -> Agreement:
    """Holds the tokens of engine `name` against ours.

    Args:
        name: of the other engine, for messages.
        prompts: token ids, by request.
        ours: new tokens by request, each of one length.
        theirs: the same of the other engine.
        logits: of what follows some sequences, [sequences, vocabulary]; called where tokens part.

    Raises:
        Disagreement: counts differ, most first tokens differ, or a request parts from ours at a
            token that was no near tie.
    """
    if [len(row) for row in ours] != [len(row) for row in theirs]:
        got = sorted({len(row) for row in theirs})
        raise Disagreement(
            f"{name} gave {len(theirs)} outputs of {got} tokens; asked were {len(ours)} of "
            f"{len(ours[0])}"
        )
    pairs = list(zip(ours, theirs, strict=True))
    first = sum(a[0] == b[0] for a, b in pairs)
    if 2 * first <= len(pairs):
        raise Disagreement(
            f"{name} draws another first token for {len(pairs) - first} of {len(pairs)} requests; "
            "it does not run the same model"
        )
    parted = {
        request: next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        for request, (a, b) in enumerate(pairs)
        if a != b
    }
    if parted:
        rows = logits([prompts[r] + ours[r][:at] for r, at in parted.items()])
        _check_ties(name, pairs, parted, rows)
    equal = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=True))
    return Agreement(
        equal_tokens=equal / sum(map(len, ours)),
        identical_requests=1 - len(parted) / len(pairs),
        equal_first_tokens=first / len(pairs),
        turned_ties=len(parted),
    )


def _check_ties(
    name: str,
    pairs: list[tuple[list[int], list[int]]],
    parted: dict[int, int],
    rows: torch.Tensor,
) -> None:
    """Both tokens at which a request parts must be as good as the best there is."""
    for (request, at), row in zip(parted.items(), rows, strict=True):
        for token in (pairs[request][0][at], pairs[request][1][at]):
            behind = float((row.max() - row[token]) / row.std())
            if behind > NEAR_TIE:
                whose = "ours" if token == pairs[request][0][at] else f"that of {name}"
                raise Disagreement(
                    f"request {request} parts from {name} at new token {at}, where {whose} is "
                    f"{behind:.3f} standard deviations below the best logit; a tie is within "
                    f"{NEAR_TIE}"
                )
