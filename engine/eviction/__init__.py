"""Eviction policies. To add one: write its file, list it here, run `make test`."""

from engine.eviction.base import CacheView, EvictionPolicy
from engine.eviction.dynts import DynTS
from engine.eviction.expected_attention import ExpectedAttention
from engine.eviction.h2o import H2O
from engine.eviction.key_diff import KeyDiff
from engine.eviction.key_norm import KeyNorm
from engine.eviction.lag_kv import LagKV
from engine.eviction.paged_eviction import PagedEviction
from engine.eviction.r_kv import RKV
from engine.eviction.random import RandomAttention
from engine.eviction.regret import Regret
from engine.eviction.snapkv import SnapKV
from engine.eviction.tova import TOVA
from engine.eviction.tri_attention import TriAttention
from engine.eviction.vase import VaSE
from engine.eviction.window import Window

POLICIES: dict[str, type[EvictionPolicy]] = {
    policy.name: policy
    for policy in (
        Window,
        RandomAttention,
        KeyNorm,
        KeyDiff,
        LagKV,
        H2O,
        TOVA,
        SnapKV,
        RKV,
        VaSE,
        ExpectedAttention,
        TriAttention,
        PagedEviction,
        DynTS,
        Regret,
    )
}

__all__ = ["POLICIES", "CacheView", "EvictionPolicy"]
