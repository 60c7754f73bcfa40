"""What Prometheus sees, and the recent times that GetLoad shows.

Gauges and counters are read off the engine's newest snapshot when somebody scrapes, so a step
costs nothing for them. No label has unbounded values. Knows nothing of requests or gRPC.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from engine.messages import Accepted, Finished, FinishReason, Load, ModelInfo, Step, WaitReason
from service.families import (
    COUNTERS,
    COUNTERS_BY_POLICY,
    GAUGES,
    GAUGES_BY_BUDGET,
    HISTOGRAMS,
    PHASES,
    STEP_SECONDS,
)
from service.histogram import BulkHistogram
from service.loop_lag import LoopLag
from service.recent import RecentTimes
from service.totals import LoadTotals

NO_POLICY = "none"  # of requests that keep their whole cache
REFUSALS = (  # gRPC statuses of service/errors.py; counted from zero, or their first rise is lost
    *("ABORTED", "ALREADY_EXISTS", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION", "INTERNAL"),
    *("INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE"),
)


class ServiceMetrics(Collector):
    """All metrics of one service, in the registry it is given."""

    def __init__(self, registry: CollectorRegistry, totals: LoadTotals) -> None:
        self._totals = totals
        self.model: ModelInfo | None = None  # set when the engine is ready
        self.engine_up = False
        self.engine_restarts = 0
        self.requests_quarantined = 0
        self.loop_lag = LoopLag()
        self._accepted: Counter[str] = Counter()
        self._finished: Counter[str] = Counter({reason.value: 0 for reason in FinishReason})
        self._refused: Counter[str] = Counter(dict.fromkeys(REFUSALS, 0))
        self._calls: Counter[tuple[str, str]] = Counter()
        self._histograms = {name: BulkHistogram(spec.bounds) for name, spec in HISTOGRAMS.items()}
        self._steps = {phase: BulkHistogram(STEP_SECONDS.bounds) for phase in PHASES}
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
            self._observe("inter_token_latency_seconds", gap, tokens)
            self.recent["inter_token"].observe(gap, now, tokens)
        if step.tokens:
            self._steps[_phase(step)].observe(step.seconds)
            self._observe("batch_size", step.sequences)
            self._observe("iteration_tokens", step.tokens)
        if step.eviction_seconds:
            self._observe("eviction_duration_seconds", step.eviction_seconds)

    def observe_first_token(self, seconds: float) -> None:
        self._observe("time_to_first_token_seconds", seconds)
        self.recent["first_token"].observe(seconds, time.monotonic())

    def observe_request(self, seconds: float) -> None:
        self._observe("e2e_request_latency_seconds", seconds)
        self.recent["request"].observe(seconds, time.monotonic())

    def observe_accepted(self, accepted: Accepted) -> None:
        """Books what was granted to a request."""
        self._accepted[accepted.policy or NO_POLICY] += 1
        if accepted.kv_budget:
            self._observe("request_kv_budget_tokens", accepted.kv_budget)

    def observe_finished(self, finished: Finished) -> None:
        """Books an output that ended in the engine, for whatever reason."""
        usage = finished.usage
        drawn = usage.completion_tokens - usage.resumed_tokens
        self._finished[finished.reason.value] += 1
        self._observe("request_queue_time_seconds", usage.queue_seconds)
        self._observe("request_prompt_tokens", usage.prompt_tokens)
        self._observe("request_generation_tokens", drawn)
        if drawn:
            self._observe("request_prefill_time_seconds", usage.prefill_seconds)
            self._observe("request_decode_time_seconds", usage.decode_seconds)
        if drawn > 1:
            each = usage.decode_seconds / (drawn - 1)
            self._observe("request_time_per_output_token_seconds", each)
        if usage.completion_tokens and usage.kv_tokens_peak:
            computed = usage.prompt_tokens + usage.completion_tokens - 1  # the last one is not
            ratio = max(computed / usage.kv_tokens_peak, 1.0)
            self._observe("request_kv_peak_tokens", usage.kv_tokens_peak)
            self._observe("request_kv_compression_ratio", ratio)

    def count_refused(self, status: str) -> None:
        """Counts a request that ended before it was accepted, by gRPC status."""
        self._refused[status] += 1

    def count_call(self, method: str, status: str, calls: int = 1) -> None:
        """Counts gRPC calls that ended, by full name of a method that is served, and status."""
        self._calls[method, status] += calls

    def _observe(self, name: str, value: float, count: int = 1) -> None:
        self._histograms[name].observe(value, count)

    # --- from Prometheus

    def collect(self) -> Iterator[Metric]:
        load = self._totals.load
        yield from self._gauges(load)
        yield from self._kv_gauges(load)
        for name, text, field in COUNTERS:
            yield CounterMetricFamily(f"sluice_{name}", text, getattr(load, field))
        for name, text, field in COUNTERS_BY_POLICY:
            counts: dict[str, int] = getattr(load, field)
            yield _counter(name, text, ["policy"], self._zeros() | counts)
        yield from self._request_counters()
        for name, spec in HISTOGRAMS.items():
            yield _histogram(name, spec.text, [], [((), self._histograms[name])])
        by_phase = [((phase,), histogram) for phase, histogram in self._steps.items()]
        yield _histogram("step_duration_seconds", STEP_SECONDS.text, ["phase"], by_phase)

    def _gauges(self, load: Load) -> Iterator[Metric]:
        now = time.monotonic()
        for name, text, field in GAUGES:
            yield GaugeMetricFamily(f"sluice_{name}", text, getattr(load, field))
        waiting = GaugeMetricFamily(
            "sluice_num_requests_waiting_by_reason",
            "Outputs in the queue, by what they wait for.",
            labels=["reason"],
        )
        for reason in WaitReason:
            waiting.add_metric([reason.value], load.waiting_by_reason.get(reason, 0))
        yield waiting
        yield GaugeMetricFamily(
            "sluice_generation_tokens_per_second",
            "New tokens per second, over the last 5 seconds.",
            self._totals.tokens_per_second(now),
        )
        yield GaugeMetricFamily(
            "sluice_engine_up", "1 while the engine serves, else 0.", float(self.engine_up)
        )
        yield GaugeMetricFamily(
            "sluice_event_loop_lag_seconds",
            "Longest lag of the front's event loop within the last 15 seconds.",
            self.loop_lag.value(now),
        )

    def _kv_gauges(self, load: Load) -> Iterator[Metric]:
        blocks = load.blocks_used + load.blocks_free + load.blocks_cached
        yield GaugeMetricFamily(
            "sluice_kv_cache_usage_perc",
            "Share of the KV blocks held by sequences; 1 is full.",
            load.blocks_used / blocks if blocks else 0.0,
        )
        in_tables = sum(counts.blocks for counts in load.budget_classes)
        yield GaugeMetricFamily(
            "sluice_kv_blocks_leaked",
            "References to KV blocks that no live output has; anything but 0 is a defect.",
            load.blocks_used + load.blocks_shared - in_tables,
        )
        for name, text, field in GAUGES_BY_BUDGET:
            family = GaugeMetricFamily(f"sluice_{name}", text, labels=["budget"])
            for counts in load.budget_classes:
                label = str(counts.bound) if counts.bound else NO_POLICY
                family.add_metric([label], getattr(counts, field))
            yield family
        info = GaugeMetricFamily(
            "sluice_cache_config_info",
            "1; the labels say what is served, and the size of the KV pool.",
            labels=["model_name", "block_size", "num_gpu_blocks"],
        )
        if (model := self.model) is not None:
            info.add_metric([model.name, str(model.block_size), str(model.total_blocks)], 1)
        yield info

    def _request_counters(self) -> Iterator[Metric]:
        yield _counter(
            "requests_accepted",
            "Requests that were queued, by eviction policy; none: the whole cache.",
            ["policy"],
            self._zeros() | {NO_POLICY: 0} | dict(self._accepted),
        )
        model = self.model.name if self.model else ""
        yield _counter(
            "request_success",
            "Outputs that ended, by model and reason.",
            ["model_name", "finished_reason"],
            {(model, reason): count for reason, count in self._finished.items()},
        )
        yield _counter(
            "requests_refused",
            "Requests that ended before they were accepted, by gRPC status.",
            ["status"],
            dict(self._refused),
        )
        yield _counter(
            "grpc_server_handled",
            "gRPC calls that ended, by method and status.",
            ["method", "code"],
            dict(self._calls),
        )
        yield CounterMetricFamily(
            "sluice_engine_restarts", "Times the engine was started anew.", self.engine_restarts
        )
        yield CounterMetricFamily(
            "sluice_requests_quarantined",
            "Requests found to fail the engine whenever they run.",
            self.requests_quarantined,
        )

    def _zeros(self) -> dict[str, int]:
        """By policy, for those that have no count yet: absent series cannot rise."""
        return (
            dict.fromkeys([policy.name for policy in self.model.policies], 0) if self.model else {}
        )


def _phase(step: Step) -> str:
    if not step.prefill_tokens:
        return "decode"
    return "prefill" if step.prefill_tokens == step.tokens else "mixed"


def _counter(
    name: str,
    text: str,
    labels: list[str],
    counts: Mapping[str, int] | Mapping[tuple[str, str], int],
) -> Metric:
    family = CounterMetricFamily(f"sluice_{name}", text, labels=labels)
    for value, count in counts.items():
        family.add_metric([value] if isinstance(value, str) else value, count)
    return family


def _histogram(
    name: str,
    text: str,
    labels: list[str],
    histograms: Iterable[tuple[tuple[str, ...], BulkHistogram]],
) -> Metric:
    family = HistogramMetricFamily(f"sluice_{name}", text, labels=labels)
    for values, histogram in histograms:
        histogram.add_to(family, values)
    return family
