"""What holds for every policy. A new policy is in here as soon as it is listed in POLICIES."""

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
import torch

from engine.config import EngineConfig
from engine.eviction import POLICIES, CacheView, EvictionPolicy
from engine.eviction.base import build, describe
from engine.messages import PolicySetting
from tests.engine.eviction.caches import GROUPS, one_sequence, random_view

EVERY_POLICY = pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
EVERY_SETTING = pytest.mark.parametrize(
    ("policy", "setting"),
    [(policy, s) for policy in POLICIES.values() for s in describe(policy).settings],
    ids=lambda x: x.name,
)
PINNED, RECENT = torch.tensor([3, 0, 5]), torch.tensor([4, 6, 1])


def _select(policy: EvictionPolicy, view: CacheView, count: int) -> torch.Tensor:
    some = slice(len(view.seeds))
    return policy.select(view, count, pinned=PINNED[some], recent=RECENT[some])


def _tensors(view: CacheView) -> dict[str, Any]:
    values = {field.name: getattr(view, field.name) for field in fields(view)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


@EVERY_POLICY
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("count", [7, 11, 23])
def test_keeps_exactly_count_entries_in_cache_order(
    policy: type[EvictionPolicy], group: int, count: int
) -> None:
    view = random_view(sequences=3, group=group, missing=2)
    kept = _select(policy(), view, count)
    assert kept.shape == (*view.keys.shape[:3], count)
    assert kept.dtype == torch.int64
    assert kept.is_contiguous()
    assert (kept.diff(dim=-1) > 0).all()
    assert kept.min() >= 0
    assert kept.max() < view.keys.shape[3]


@EVERY_POLICY
@pytest.mark.parametrize("count", [7, 11])
def test_pinned_and_recent_entries_stay_in_each_sequence(
    policy: type[EvictionPolicy], count: int
) -> None:
    view = random_view(sequences=3)
    tokens = view.keys.shape[3]
    for sequence, kept in enumerate(_select(policy(), view, count)):
        pinned, recent = int(PINNED[sequence]), int(RECENT[sequence])
        assert (kept[..., :pinned] == torch.arange(pinned)).all()
        assert (kept[..., count - recent :] == torch.arange(tokens - recent, tokens)).all()


@EVERY_POLICY
def test_keeping_all_is_the_identity(policy: type[EvictionPolicy]) -> None:
    view = random_view(sequences=3)
    tokens = view.keys.shape[3]
    assert (_select(policy(), view, tokens) == torch.arange(tokens)).all()


@EVERY_POLICY
def test_leaves_its_input_alone_and_repeats_itself(policy: type[EvictionPolicy]) -> None:
    view = random_view(sequences=3)
    before = {name: tensor.clone() for name, tensor in _tensors(view).items()}
    first, second = _select(policy(), view, 11), _select(policy(), view, 11)
    assert torch.equal(first, second)
    for name, tensor in _tensors(view).items():
        assert torch.equal(tensor, before[name]), name


@EVERY_POLICY
@pytest.mark.parametrize(("sequences", "tokens"), [(3, 24), (3, 97), (3, 1000)])
def test_a_sequence_alone_is_ranked_as_among_others(
    policy: type[EvictionPolicy], sequences: int, tokens: int
) -> None:
    view = random_view(sequences, tokens, missing=3)
    assert (len(view.parts()) > 1) == (tokens == 1000), "sizes on both sides of the split"
    together = _select(policy(), view, tokens - 9)
    for i in range(sequences):
        alone = policy().select(
            one_sequence(view, i), tokens - 9, pinned=PINNED[i : i + 1], recent=RECENT[i : i + 1]
        )
        assert torch.equal(alone[0], together[i])


@EVERY_POLICY
def test_scores_are_one_finite_number_per_entry(policy: type[EvictionPolicy]) -> None:
    for missing in (0, 5, 8):  # eight: the second sequence has no query at all
        view = random_view(missing=missing)
        score = policy().score(view)
        assert score.shape == view.keys.shape[:4]
        assert score.isfinite().all()


@EVERY_POLICY
def test_degenerate_caches_give_no_nan(policy: type[EvictionPolicy]) -> None:
    view = random_view(sequences=3)
    assert view.queries is not None
    alike = view.keys[..., :1, :].expand_as(view.keys)
    caches = {
        "zero keys": replace(view, keys=torch.zeros_like(view.keys)),
        "some zero keys": replace(view, keys=view.keys * (torch.arange(24)[:, None] % 3)),
        "identical keys": replace(view, keys=alike),
        "opposite keys": replace(view, keys=alike * (-1) ** torch.arange(24)[:, None]),
        "huge queries": replace(view, queries=view.queries * 1e18),
        "huge keys": replace(view, keys=view.keys * 1e18),
        "tiny keys": replace(view, keys=view.keys * 1e-30),
    }
    for name, cache in caches.items():
        assert policy().score(cache).isfinite().all(), name
        assert (_select(policy(), cache, 11).diff(dim=-1) > 0).all(), name


@EVERY_POLICY
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_cache_loses_nothing_that_is_pinned(
    policy: type[EvictionPolicy], broken: float
) -> None:
    """Pinned blocks may be shared, so what overflows in one request must not move them."""
    view = random_view(sequences=3)
    for name in ("keys", "values", "queries", "mass"):
        full: dict[str, Any] = {name: torch.full_like(getattr(view, name), broken)}
        cache = replace(view, **full)
        kept = _select(policy(), cache, 11)
        assert (kept.diff(dim=-1) > 0).all()
        for sequence in range(3):
            pinned = int(PINNED[sequence])
            assert (kept[sequence, ..., :pinned] == torch.arange(pinned)).all()


@EVERY_POLICY
def test_fewer_queries_or_tokens_than_the_window_will_do(policy: type[EvictionPolicy]) -> None:
    view = random_view(sequences=3, recent=1)
    assert _select(policy(), view, 11).shape[-1] == 11
    short = random_view(tokens=9, recent=32)
    assert policy().score(short).shape[-1] == 9


@EVERY_POLICY
def test_the_contract_describes_it(policy: type[EvictionPolicy]) -> None:
    info = describe(policy)
    assert POLICIES[info.name] is policy
    assert "arXiv" in info.summary or "docs/log.md" in info.summary, "where the idea is from"
    assert "\n" not in info.summary
    assert 0 < info.recent_share <= 0.5
    built = build(policy, {})
    assert built == policy()
    assert [setting.name for setting in info.settings] == [field.name for field in fields(policy)]
    with pytest.raises(FrozenInstanceError):
        built.name = "another"  # type: ignore[misc]


@EVERY_SETTING
def test_a_setting_reaches_the_policy_as_it_is_described(
    policy: type[EvictionPolicy], setting: PolicySetting
) -> None:
    assert setting.minimum <= setting.default <= setting.maximum
    assert setting.description
    for value in (setting.minimum, setting.default, setting.maximum):
        built = build(policy, {setting.name: value})  # floats, as the contract carries them
        stored = getattr(built, setting.name)
        assert stored == value
        assert isinstance(stored, int) == setting.integer


@EVERY_SETTING
@pytest.mark.parametrize("end", ["minimum", "maximum"])
@pytest.mark.parametrize("tokens", [24, 5])
def test_the_ends_of_a_setting_work(
    policy: type[EvictionPolicy], setting: PolicySetting, end: str, tokens: int
) -> None:
    built = build(policy, {setting.name: getattr(setting, end)})
    view = random_view(tokens=tokens, recent=16, missing=5)
    assert built.score(view).isfinite().all()
    none = torch.zeros(2, dtype=torch.int64)
    kept = built.select(view, tokens - 2, pinned=none, recent=none)
    assert (kept.diff(dim=-1) > 0).all()


@EVERY_POLICY
def test_no_setting_asks_for_more_queries_than_the_default_ring_keeps(
    policy: type[EvictionPolicy],
) -> None:
    largest = {setting.name: setting.maximum for setting in describe(policy).settings}
    assert 0 <= build(policy, largest).needs_queries <= EngineConfig().query_ring


@pytest.mark.gpu
@EVERY_POLICY
def test_a_gpu_ranks_alike(policy: type[EvictionPolicy]) -> None:
    view = random_view(sequences=3, tokens=97)
    tensors = {name: tensor.cuda() for name, tensor in _tensors(view).items()}
    assert view.artifact is not None
    artifact = {name: tensor.cuda() for name, tensor in view.artifact.items()}
    there = replace(view, **tensors, artifact=artifact)
    torch.testing.assert_close(policy().score(there).cpu(), policy().score(view))
    kept = policy().select(there, 50, pinned=PINNED.cuda(), recent=RECENT.cuda())
    assert kept.shape == (*view.keys.shape[:3], 50)
    assert (kept.diff(dim=-1) > 0).all()
