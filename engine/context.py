"""What attention needs to know of the step that runs: one object, set around the forward.

Models hand unknown keyword arguments through to their attention, but not all and not always; a
context reaches every layer of every architecture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from engine.importance import ImportanceStore, ImportanceWrite
from engine.kv_pool import KvPool
from engine.query_ring import QueryRing, RingWrite


@dataclass
class ForwardContext:
    """One packed step: `decodes` rows of one token each, then prefill chunks."""

    pool: KvPool
    ring: QueryRing | None
    impl: str | None  # kernel implementation; None: by device
    ids: torch.Tensor  # [tokens] int64
    positions: torch.Tensor  # [tokens] int32, logical
    slots: torch.Tensor  # [tokens] int64
    decodes: int
    decode_tables: torch.Tensor  # [decodes, blocks] int32
    decode_lengths: torch.Tensor  # [decodes] int32, the new token included
    chunk_tables: torch.Tensor  # [chunks, blocks] int32
    chunk_lengths: torch.Tensor  # [chunks] int32, the chunk included
    chunk_starts: torch.Tensor  # [chunks + 1] int32, in the packed rows after the decodes
    ring_write: RingWrite | None
    importance: ImportanceStore | None = None
    importance_writes: list[ImportanceWrite] = field(default_factory=list)
    layers_seen: set[int] = field(default_factory=set)


_current: ForwardContext | None = None


@contextmanager
def forward_context(context: ForwardContext) -> Iterator[ForwardContext]:
    """Makes `context` the current one."""
    global _current
    _current = context
    try:
        yield context
    finally:
        _current = None


def predict_importance(hidden: torch.Tensor) -> None:
    """Hands the model's last hidden states, [tokens, hidden size], to the step's predictions."""
    context = current_context()
    if context.importance is not None:
        for write in context.importance_writes:
            context.importance.write(write, hidden, context.ids)


def current_context() -> ForwardContext:
    """The step that runs; attention outside one is a bug of ours."""
    assert _current is not None, "attention ran outside of forward_context"
    return _current
