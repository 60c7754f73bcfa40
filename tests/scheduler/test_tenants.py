"""Fair shares between tenants, and their limits: whatever they ask for, in whatever order."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.errors import QuotaExceeded
from scheduler.request import Request
from scheduler.tenants import Tenant
from tests.builders import Bench, make_request, name_of

QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def asked(tenant: Tenant, prompt: int = 4, new: int = 8, **fields: Any) -> Request:
    return make_request(prompt, new, tenant=tenant, **fields)


def run(bench: Bench, steps: int, refill: list[Tenant]) -> Counter[str]:
    """Tokens run by tenant, while every tenant of `refill` always has outputs that wait."""
    tokens: Counter[str] = Counter()
    for _ in range(steps):
        lines = Counter(s.request.tenant.name for s in _waiting(bench))
        for tenant in refill:
            for _ in range(8 - lines[tenant.name]):
                bench.submit(asked(tenant))
        for chunk in bench.step().chunks:
            tokens[chunk.sequence.request.tenant.name] += chunk.count
    return tokens


def _waiting(bench: Bench) -> list[Any]:
    outputs = bench.scheduler._live.values()
    return [s for sequences in outputs for s in sequences if s.row is None]


@QUICK
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0, 5.0]), min_size=2, max_size=4))
def test_shares_converge_to_the_weights(weights: list[float]) -> None:
    tenants = [Tenant(f"t{i}", weight) for i, weight in enumerate(weights)]
    tokens = run(Bench(256, max_running=8, max_batch_tokens=32), 200, tenants)
    total = sum(tokens.values())
    for tenant in tenants:
        fair = tenant.weight / sum(weights)
        assert tokens[tenant.name] / total == pytest.approx(fair, abs=0.05)


@pytest.mark.parametrize(("weights", "places"), [((1, 1), (4, 4)), ((3, 1), (6, 2))])
def test_places_that_are_free_at_once_are_shared_out(
    weights: tuple[float, float], places: tuple[int, int]
) -> None:
    bench = Bench(64, max_running=8, max_batch_tokens=64)
    tenants = [Tenant(name, weight) for name, weight in zip("ab", weights, strict=True)]
    bench.submit(*[asked(tenant) for tenant in tenants for _ in range(8)])
    bench.step()
    running = Counter(s.request.tenant.name for s in bench.scheduler.running)
    assert (running["a"], running["b"]) == places


def test_a_flood_does_not_delay_another_tenant() -> None:
    """The one that asks for little goes ahead of all that a greedy one has queued before it."""
    bench = Bench(64, max_running=2, max_waiting=1000)
    bench.submit(*[asked(Tenant("greedy"), priority=100) for _ in range(200)])
    bench.steps(40)
    little = asked(Tenant("modest"), priority=-100)
    bench.submit(little)
    bench.steps(24)  # a place is free within one answer of 9 steps
    assert (little.key, 0) in bench.reasons
    assert len(bench.reasons) < 60


def test_one_tenant_alone_gets_everything() -> None:
    alone = run(Bench(64), 50, [Tenant("a", 0.001)])
    nobody = run(Bench(64), 50, [Tenant()])
    assert alone["a"] == nobody[""]


def test_idleness_saves_nothing_up() -> None:
    bench, busy, idle = Bench(64, max_running=2), Tenant("busy"), Tenant("idle")
    run(bench, 10, [busy, idle])
    run(bench, 200, [busy])
    tokens = run(bench, 200, [busy, idle])
    assert tokens["idle"] / sum(tokens.values()) == pytest.approx(0.5, abs=0.06)


def test_priority_counts_within_a_tenant_only() -> None:
    bench, a, b = Bench(64, max_running=1), Tenant("a"), Tenant("b")
    first = asked(a)
    low, high, other = asked(a), asked(a, priority=50), asked(b, priority=-50)
    bench.submit(first)
    bench.step()
    bench.submit(low, high, other)
    bench.drain()
    ended = [key for key, _ in bench.reasons]
    assert ended.index(high.key) < ended.index(low.key)
    assert ended.index(other.key) < ended.index(high.key), "b had not been served at all"


def test_without_tenants_the_order_is_that_of_priority_and_arrival() -> None:
    bench = Bench(64, max_running=1)
    requests = [asked(Tenant(), priority=priority) for priority in (0, 0, 5, -5)]
    bench.submit(*requests)
    bench.drain()
    assert list(bench.reasons) == [(requests[i].key, 0) for i in (2, 0, 1, 3)]


@QUICK
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),  # tenant
            st.integers(1, 3),  # outputs
            st.integers(1, 12),  # prompt
            st.integers(1, 12),  # new tokens
            st.sampled_from([None, 20]),  # KV budget
            st.integers(0, 3),  # steps that follow
        ),
        max_size=40,
    ),
    st.tuples(st.integers(1, 4), st.integers(3, 8), st.integers(24, 60)),
)
def test_limits_are_never_exceeded_and_nobody_starves(
    calls: list[tuple[int, int, int, int, int | None, int]], limits: tuple[int, int, int]
) -> None:
    running, waiting, tokens = limits
    tenants = [
        Tenant("a", 1.0, running, waiting, tokens),
        Tenant("b", 4.0, max_waiting=waiting),
        Tenant("c"),
    ]
    bench = Bench(24, max_running=6)
    accepted: list[Request] = []
    for index, n, prompt, new, cap, steps in calls:
        request = asked(tenants[index], prompt, new, n=n, cap=cap)
        before = [s for s in _waiting(bench) if s.request.tenant.name == request.tenant.name]
        if request.tenant.max_waiting is not None and len(before) + n > waiting:
            with pytest.raises(QuotaExceeded) as caught:
                bench.submit(request)
            assert caught.value.quota == "max_waiting"
            assert (caught.value.retry_seconds > 0) == (n <= waiting)
        else:
            bench.submit(request)
            accepted.append(request)
        for _ in range(steps):
            bench.step()
            _check_limits(bench, tenants[0])
    while bench.scheduler.num_live:
        bench.step()
        _check_limits(bench, tenants[0])
    assert set(bench.reasons) == {(r.key, i) for r in accepted for i in range(r.n)}


def _check_limits(bench: Bench, tenant: Tenant) -> None:
    """Told from what runs and holds, not from the queue's own counts."""
    mine = [s for s in bench.scheduler.running if s.request.tenant.name == tenant.name]
    assert tenant.max_running is not None
    assert tenant.max_kv_tokens is not None
    assert len(mine) <= tenant.max_running
    assert sum(s.kv_tokens for s in mine) <= tenant.max_kv_tokens


def test_an_output_that_could_never_fit_is_refused_for_good() -> None:
    tenant = Tenant("a", max_kv_tokens=30)
    bench = Bench(64)
    with pytest.raises(QuotaExceeded, match=r"31 KV tokens.*30") as caught:
        bench.submit(asked(tenant, 20, 11))
    assert (caught.value.quota, caught.value.retry_seconds) == ("max_kv_tokens", 0)
    bench.submit(asked(tenant, 20, 10), asked(tenant, 8, 100, cap=30))
    bench.drain()


def test_a_limit_that_was_lowered_keeps_nobody_for_ever() -> None:
    bench = Bench(64)
    large = asked(Tenant("a", max_kv_tokens=100), 20, 40)
    bench.submit(asked(Tenant("a", max_kv_tokens=100), 20, 40), large)
    bench.submit(asked(Tenant("a", max_kv_tokens=10), 4, 4))
    bench.drain()
    assert (large.key, 0) in bench.reasons


def test_a_tenant_at_its_limit_does_not_hold_up_others() -> None:
    bench = Bench(64, max_running=4)
    one = Tenant("a", max_running=1)
    bench.submit(*[asked(one) for _ in range(3)])
    other = asked(Tenant("b"))
    bench.submit(other)
    bench.step()
    assert {s.request.tenant.name for s in bench.scheduler.running} == {"a", "b"}
    assert len(bench.scheduler.running) == 2
    assert name_of(bench.scheduler.running[-1]) == (other.key, 0)


def test_tenants_share_no_prompt_blocks() -> None:
    """CVE-2025-46570: how fast a prompt is answered must not tell what others asked."""
    prompt = list(range(17))
    for first, second, cached in (("a", "a", 16), ("a", "b", 0), ("", "a", 0)):
        bench = Bench(64)
        for name in (first, second):
            request = make_request(prompt, 4, tenant=Tenant(name))
            bench.submit(request)
            bench.drain()
        assert bench.usage[request.key, 0].cached_prompt_tokens == cached
