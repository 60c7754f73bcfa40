"""Eviction policies. To add one: write its file, list it here, run `make test`."""

from engine.eviction.base import CacheView, EvictionPolicy
from engine.eviction.h2o import H2O
from engine.eviction.key_diff import KeyDiff
from engine.eviction.r_kv import RKV
from engine.eviction.random import RandomAttention
from engine.eviction.snapkv import SnapKV
from engine.eviction.window import Window

POLICIES: dict[str, type[EvictionPolicy]] = {
    policy.name: policy for policy in (Window, RandomAttention, KeyDiff, H2O, SnapKV, RKV)
}

__all__ = ["POLICIES", "CacheView", "EvictionPolicy"]
