"""What an eviction policy is: it ranks the entries of a cache, and does nothing else.

The scheduler says when and how many; compact_kv moves. A policy is a frozen dataclass whose fields
are its settings; it holds no state, so one object serves any number of requests.
"""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from engine.messages import PolicyInfo, PolicySetting
from scheduler.budget import RECENT_SHARE

# Elements of keys ranked at a time; what a policy computes from them takes as much again. On a CPU
# that stays in a core's cache, and out of mmap, whose page faults cost more than the arithmetic.
_CPU_ELEMENTS = 1 << 17
_GPU_ELEMENTS = 1 << 27


@dataclass(frozen=True)
class CacheView:
    """The caches of sequences that are compacted together, all of one length, oldest entry first.

    Slot i may hold a different token in each layer and head; `positions` says which. Queries and
    keys carry their rotary embedding. Floating-point tensors are float32.
    """

    keys: torch.Tensor  # [sequences, layers, kv_heads, tokens, head_dim]
    values: torch.Tensor  # [sequences, layers, kv_heads, tokens, head_dim]
    positions: torch.Tensor  # [sequences, layers, kv_heads, tokens] int32, ascending
    queries: torch.Tensor | None  # [sequences, layers, heads, recent, head_dim], newest last
    # [sequences, recent] int32: one by one up to the newest entry's; negative: no such query
    query_positions: torch.Tensor | None
    mass: torch.Tensor | None  # [sequences, layers, kv_heads, tokens] attention received so far
    scale: float  # of query · key
    seeds: torch.Tensor  # [sequences] int64: (request seed, output, eviction round) hashed

    def parts(self) -> "list[CacheView]":
        """The view in pieces of few sequences, so that what is computed from each stays small."""
        sequences = len(self.keys)
        limit = _CPU_ELEMENTS if self.keys.device.type == "cpu" else _GPU_ELEMENTS
        size = max(1, limit * sequences // self.keys.numel())
        if size >= sequences:
            return [self]
        tensors: dict[str, Any] = {
            field.name: value
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return [
            dataclasses.replace(self, **{k: v[start : start + size] for k, v in tensors.items()})
            for start in range(0, sequences, size)
        ]


@dataclass(frozen=True)
class EvictionPolicy(ABC):
    """Ranks cache entries. To add one: CONTRIBUTING.md, "A policy"."""

    name: ClassVar[str]
    summary: ClassVar[str]  # one line: the idea and the paper
    recent_share: ClassVar[float] = RECENT_SHARE  # of the budget, pinned as newest by default
    needs_mass: ClassVar[bool] = False  # reads view.mass

    @property
    def needs_queries(self) -> int:
        """Recent queries that `score` reads; 0 for none."""
        return 0

    @abstractmethod
    def score(self, view: CacheView) -> torch.Tensor:
        """Importance of each entry, [sequences, layers, kv_heads, tokens]; higher stays longer.

        Must not depend on which other sequences are in the view. NaN is not allowed.
        """

    def select(
        self, view: CacheView, count: int, *, pinned: torch.Tensor, recent: torch.Tensor
    ) -> torch.Tensor:
        """Indices of the `count` entries to keep, ascending; ties go to the newer entry.

        Args:
            view: the caches.
            count: entries left per layer and head; at least pinned + recent, at most tokens.
            pinned: [sequences] int64, oldest entries that stay whatever their score.
            recent: [sequences] int64, newest entries that stay whatever their score.

        Returns:
            [sequences, layers, kv_heads, count] int64.
        """
        scores = torch.cat([self.score(part) for part in view.parts()])
        tokens = scores.shape[-1]
        slots = torch.arange(tokens, device=scores.device)
        stays = (slots < pinned[:, None]) | (slots >= tokens - recent[:, None])
        # Broken scores must not unpin: a pinned block may belong to other requests as well.
        scores = scores.float().nan_to_num(nan=torch.finfo(torch.float32).min)
        ranks = _ranks(scores.masked_fill(stays[:, None, None, :], torch.inf), slots)
        gone = ranks.topk(tokens - count, dim=-1, largest=False, sorted=False).indices
        kept = torch.ones_like(ranks, dtype=torch.bool).scatter_(-1, gone, False)
        places = torch.nonzero_static(kept.view(-1), size=kept[..., 0].numel() * count)
        return (places % tokens).view(*kept.shape[:-1], count)


def _ranks(scores: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """int64 that order as `scores` (float32, no NaN) do, and equals by slot, newer above older.

    Without ties, the cheapest selection on each device gives the same answer.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: -0.0 and 0.0 are equals
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # IEEE floats order as sign and magnitude
    return (ascending.long() << 32) | slots


def setting(
    default: float, minimum: float, maximum: float, description: str
) -> Any:  # a dataclass field
    """Declares one setting of a policy; an int default means whole numbers only."""
    metadata = {"minimum": minimum, "maximum": maximum, "description": description}
    return dataclasses.field(default=default, metadata=metadata)


def describe(policy: type[EvictionPolicy], ring: int | None = None) -> PolicyInfo:
    """The policy as the contract shows it; its `window`, if it has one, fits a ring of `ring`."""

    def maximum(field: dataclasses.Field[Any]) -> float:
        largest = float(field.metadata["maximum"])
        return largest if ring is None or field.name != "window" else min(largest, ring)

    settings = [
        PolicySetting(
            name=field.name,
            description=field.metadata["description"],
            default=float(field.default),  # type: ignore[arg-type]
            minimum=float(field.metadata["minimum"]),
            maximum=maximum(field),
            integer=isinstance(field.default, int),
        )
        for field in dataclasses.fields(policy)
    ]
    return PolicyInfo(policy.name, policy.summary, policy.recent_share, settings)


def build(policy: type[EvictionPolicy], settings: dict[str, float]) -> EvictionPolicy:
    """The policy with `settings` (names and ranges checked by the front) over its defaults."""
    whole = {f.name for f in dataclasses.fields(policy) if isinstance(f.default, int)}
    return policy(**{k: int(v) if k in whole else v for k, v in settings.items()})
