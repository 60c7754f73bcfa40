"""What an eviction policy is: it ranks the entries of a cache, and does nothing else.

The scheduler says when and how many; compact_kv moves. A policy is a frozen dataclass whose fields
are its settings; it holds no state, so one object serves any number of requests.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from engine.kv_pool import KvShape
from engine.messages import PolicyInfo, PolicySetting
from kernels.select_entries import select_entries
from scheduler.budget import RECENT_SHARE

# The tensors of a view whose first dimension is the sequence.
BY_SEQUENCE = (
    "keys",
    "values",
    "positions",
    "queries",
    "query_positions",
    "mass",
    "seeds",
    "prompt_tokens",
    "importance",
)

# Elements of keys ranked at a time; what a policy computes from them takes as much again. On a CPU
# that stays in a core's cache, and out of mmap, whose page faults cost more than the arithmetic.
_CPU_ELEMENTS = 1 << 17
_GPU_ELEMENTS = 1 << 27

KEPT_FIRST = 1e30  # the score of what goes only after all that a policy ranks; finite


@dataclass(frozen=True)
class CacheView:
    """The caches of sequences that are compacted together, all of one length, oldest entry first.

    Slot i may hold a different token in each layer and head; `positions` says which. Queries and
    keys carry their rotary embedding. Floating-point tensors are float32. What a policy does not
    declare that it reads was not gathered: keys and values are then NaN, the others None.
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
    prompt_tokens: torch.Tensor  # [sequences] int64: positions below are the prompt
    # [layers, head_dim / 2] float64 radians per position: rotary halves (i, i + head_dim / 2) turn
    # by that; None where the model's positions are encoded otherwise
    frequencies: torch.Tensor | None = None
    artifact: Mapping[str, torch.Tensor] | None = None  # of the policy's file, on this device
    # [sequences, layers, kv_heads, tokens] that the policy predicted when the token was computed;
    # meaningless for the prompt
    importance: torch.Tensor | None = None
    impl: str | None = None  # of the kernels that score; None: by device

    def parts(self) -> "list[CacheView]":
        """The view in pieces of few sequences, so that what is computed from each stays small."""
        sequences = len(self.keys)
        limit = _CPU_ELEMENTS if self.keys.device.type == "cpu" else _GPU_ELEMENTS
        size = max(1, limit * sequences // self.keys.numel())
        if size >= sequences:
            return [self]
        tensors: dict[str, Any] = {
            name: value
            for name in BY_SEQUENCE
            if isinstance(value := getattr(self, name), torch.Tensor)
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
    whole_blocks: ClassVar[bool] = False  # blocks go, by their entries' mean score; nothing moves
    needs_keys: ClassVar[bool] = True  # reads view.keys
    needs_values: ClassVar[bool] = False  # reads view.values
    needs_mass: ClassVar[bool] = False  # reads view.mass
    needs_frequencies: ClassVar[bool] = False  # reads view.frequencies
    needs_artifact: ClassVar[bool] = False  # reads view.artifact: <name>.safetensors of the model
    needs_importance: ClassVar[bool] = False  # reads view.importance, which `predict` makes

    @property
    def needs_queries(self) -> int:
        """Recent queries that `score` reads; 0 for none."""
        return 0

    @classmethod
    def artifact_complaint(cls, artifact: Mapping[str, torch.Tensor], shape: KvShape) -> str:
        """Why these are not the tensors that `score` reads for such a model; empty if they are."""
        return ""

    @classmethod
    def predict(cls, artifact: Mapping[str, torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
        """Importance of tokens, [tokens], from their last hidden states, [tokens, hidden size]."""
        raise NotImplementedError(f"{cls.name} predicts nothing")

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
        parts = [self.score(part) for part in view.parts()]
        scores = torch.cat(parts) if len(parts) > 1 else parts[0]
        return select_entries(scores.float(), count, pinned, recent, impl=view.impl)


def setting(
    default: float, minimum: float, maximum: float, description: str
) -> Any:  # a dataclass field
    """Declares one setting of a policy; an int default means whole numbers only."""
    metadata = {"minimum": minimum, "maximum": maximum, "description": description}
    return dataclasses.field(default=default, metadata=metadata)


def describe(
    policy: type[EvictionPolicy], ring: int | None = None, unavailable: str = ""
) -> PolicyInfo:
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
    return PolicyInfo(
        policy.name,
        policy.summary,
        policy.recent_share,
        settings,
        needs=_needs(policy),
        unavailable=unavailable,
        whole_blocks=policy.whole_blocks,
    )


def _needs(policy: type[EvictionPolicy]) -> str:
    """What the policy reads beside keys, values and positions, for people."""
    queries = policy().needs_queries
    needs = {
        "the last query": queries == 1,
        f"the last {queries} queries": queries > 1,
        "received attention": policy.needs_mass,
        "rotary positions": policy.needs_frequencies,
        "a file made by `sluice calibrate`": policy.needs_artifact,
    }
    return ", ".join(text for text, wanted in needs.items() if wanted)


def build(policy: type[EvictionPolicy], settings: dict[str, float]) -> EvictionPolicy:
    """The policy with `settings` (names and ranges checked by the front) over its defaults."""
    whole = {f.name for f in dataclasses.fields(policy) if isinstance(f.default, int)}
    return policy(**{k: int(v) if k in whole else v for k, v in settings.items()})
