"""What Prometheus sees, and the recent times that GetLoad shows.

Suffixes are vLLM's where the meaning is the same.

Gauges and counters are read off the engine's newest snapshot when somebody scrapes, so a step
costs nothing for them. No label has unbounded values. Knows nothing of requests or gRPC.
"""

import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.messages import FinishReason, Load, ModelInfo, Step
from service.histogram import BulkHistogram
from service.recent import RecentTimes
from service.totals import LoadTotals

TOKEN_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    *(0.75, 1, 2.5, 5, 10, 20, 40, 80),
)
FIRST_TOKEN_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
REQUEST_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 20),
    *(30, 40, 60, 120, 240, 480, 960, 1800, 3600, 7200),
)

GAUGES = (  # name, help, field of Load
    ("num_requests_running", "Outputs being prefilled or decoded.", "running"),
    ("num_requests_waiting", "Outputs in the queue.", "waiting"),
    ("kv_blocks_used", "KV blocks held by sequences.", "blocks_used"),
    ("kv_blocks_free", "KV blocks that hold nothing.", "blocks_free"),
    ("kv_blocks_cached", "KV blocks kept only for the prefix cache.", "blocks_cached"),
    ("kv_blocks_promised", "KV blocks promised and not yet taken.", "blocks_promised"),
    ("kv_tokens_resident", "KV tokens held by sequences.", "tokens_resident"),
    ("kv_tokens_elastic", "KV tokens that pressure could still take.", "tokens_elastic"),
)
COUNTERS = (
    ("generation_tokens", "New tokens.", "generation_tokens_total"),
    ("prompt_tokens", "Prompt tokens prefilled.", "prompt_tokens_total"),
    ("prompt_tokens_cached", "Prompt tokens from the prefix cache.", "cached_prompt_tokens_total"),
    ("num_preemptions", "Outputs that lost their KV blocks.", "preemptions_total"),
    ("kv_tokens_pressed", "KV tokens evicted for want of blocks.", "tokens_pressed_total"),
    ("ignored_events", "Messages for requests that were over.", "ignored_events_total"),
)
COUNTERS_BY_POLICY = (
    ("kv_tokens_evicted", "KV tokens evicted.", "tokens_evicted_total"),
    ("kv_evictions", "Eviction rounds.", "eviction_rounds_total"),
)


class ServiceMetrics(Collector):
    """All metrics of one service, in the registry it is given."""

    def __init__(self, registry: CollectorRegistry, totals: LoadTotals) -> None:
        self._totals = totals
        self.model: ModelInfo | None = None  # set when the engine is ready
        self.engine_restarts = 0
        self._finished: Counter[str] = Counter({reason.value: 0 for reason in FinishReason})
        self._refused: Counter[str] = Counter()
        self._first_token = BulkHistogram(
            "sluice_time_to_first_token_seconds",
            "From the arrival of a request to its first token.",
            FIRST_TOKEN_SECONDS,
        )
        self._token_gap = BulkHistogram(
            "sluice_inter_token_latency_seconds",
            "Between two tokens of an output.",
            TOKEN_SECONDS,
        )
        self._request = BulkHistogram(
            "sluice_e2e_request_latency_seconds",
            "From the arrival of a request to the end of its stream.",
            REQUEST_SECONDS,
        )
        self._step = BulkHistogram(
            "sluice_step_duration_seconds", "Engine steps, evictions included.", TOKEN_SECONDS
        )
        self._eviction = BulkHistogram(
            "sluice_eviction_duration_seconds",
            "Evictions of one engine step, where there were any.",
            TOKEN_SECONDS,
        )
        self.recent = {  # by field of the contract's Load
            "first_token": RecentTimes(),
            "inter_token": RecentTimes(),
            "request": RecentTimes(),
        }
        registry.register(self)

    # --- from the service

    def observe_step(self, step: Step, gaps: dict[float, int]) -> None:
        """Books an engine step; `gaps` counts its tokens by seconds since their predecessors."""
        now = time.monotonic()
        for gap, tokens in gaps.items():
            self._token_gap.observe(gap, tokens)
            self.recent["inter_token"].observe(gap, now, tokens)
        if step.tokens:
            self._step.observe(step.seconds)
        if step.eviction_seconds:
            self._eviction.observe(step.eviction_seconds)

    def observe_first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)
        self.recent["first_token"].observe(seconds, time.monotonic())

    def observe_request(self, seconds: float) -> None:
        self._request.observe(seconds)
        self.recent["request"].observe(seconds, time.monotonic())

    def count_finished(self, reason: FinishReason) -> None:
        """Counts an output that ended in the engine."""
        self._finished[reason.value] += 1

    def count_refused(self, status: str) -> None:
        """Counts a request that ended before it was accepted, by gRPC status."""
        self._refused[status] += 1

    # --- from Prometheus

    def collect(self) -> Iterator[Metric]:
        load = self._totals.load
        for name, text, field in GAUGES:
            yield GaugeMetricFamily(f"sluice_{name}", text, getattr(load, field))
        yield from self._derived_gauges(load)
        for name, text, field in COUNTERS:
            yield CounterMetricFamily(f"sluice_{name}", text, getattr(load, field))
        for name, text, field in COUNTERS_BY_POLICY:
            yield _labelled(f"sluice_{name}", text, "policy", self._by_policy(load, field))
        yield _labelled(
            "sluice_request_success",
            "Outputs that ended, by reason.",
            "finished_reason",
            dict(self._finished),
        )
        yield _labelled(
            "sluice_requests_refused",
            "Requests that ended before they were accepted, by gRPC status.",
            "status",
            dict(self._refused),
        )
        yield CounterMetricFamily(
            "sluice_engine_restarts", "Times the engine was started anew.", self.engine_restarts
        )
        histograms = (self._first_token, self._token_gap, self._request, self._step, self._eviction)
        yield from (histogram.family() for histogram in histograms)

    def _derived_gauges(self, load: Load) -> Iterator[Metric]:
        blocks = load.blocks_used + load.blocks_free + load.blocks_cached
        yield GaugeMetricFamily(
            "sluice_kv_cache_usage_perc",
            "Share of the KV blocks held by sequences; 1 is full.",
            load.blocks_used / blocks if blocks else 0.0,
        )
        yield GaugeMetricFamily(
            "sluice_generation_tokens_per_second",
            "New tokens per second, over the last seconds.",
            self._totals.tokens_per_second(time.monotonic()),
        )

    def _by_policy(self, load: Load, field: str) -> dict[str, int]:
        """Counts by policy, with a zero for policies that have none: absent series cannot rise."""
        names = [policy.name for policy in self.model.policies] if self.model else []
        counts: dict[str, int] = getattr(load, field)
        return dict.fromkeys(names, 0) | counts


def _labelled(name: str, text: str, label: str, counts: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
