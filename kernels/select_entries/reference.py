"""What select_entries means, in torch."""

import torch
from torch import Tensor


def select_entries(scores: Tensor, count: int, pinned: Tensor, recent: Tensor) -> Tensor:
    """See `kernels.select_entries.select_entries`; raises ValueError if more is to stay than
    count."""
    tokens = scores.shape[3]
    slots = torch.arange(tokens, device=scores.device)
    stays = (slots < pinned[:, None]) | (slots >= tokens - recent[:, None])  # [sequences, tokens]
    if bool((stays.sum(dim=1) > count).any()):
        raise ValueError(
            f"pinned {pinned.tolist()} and recent {recent.tolist()} of {tokens} entries are more "
            f"than the {count} that are to be kept"
        )
    # Broken scores must not unpin: a pinned block may belong to other requests as well.
    finite = scores.nan_to_num(nan=torch.finfo(torch.float32).min)
    finite = finite.masked_fill(stays[:, None, None, :], torch.inf)
    # Reversed, so that a stable sort leaves the newer of equals in front.
    order = finite.flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return (tokens - 1 - order).sort(dim=-1).values
