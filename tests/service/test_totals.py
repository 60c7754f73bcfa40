"""Sums over engine processes, the sliding rate, and the histogram that counts in bulk."""

from prometheus_client import Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import CollectorRegistry

from engine.messages import Load
from service.histogram import BulkHistogram
from service.totals import RATE_SECONDS, LoadTotals, SlidingRate


def test_totals_survive_a_restart_and_gauges_do_not() -> None:
    totals = LoadTotals()
    totals.update(
        Load(
            running=3,
            generation_tokens_total=10,
            tokens_pressed_total=7,
            tokens_elastic=9,
            tokens_evicted_total={"a": 5},
        ),
        0.0,
    )
    totals.engine_ended()
    assert (totals.load.running, totals.load.tokens_elastic) == (0, 0)
    assert totals.load.tokens_pressed_total == 7
    assert totals.load.generation_tokens_total == 10
    totals.update(
        Load(running=1, generation_tokens_total=4, tokens_evicted_total={"a": 1, "b": 2}), 1.0
    )
    assert totals.load.running == 1
    assert totals.load.generation_tokens_total == 14
    assert totals.load.tokens_evicted_total == {"a": 6, "b": 2}


def test_the_rate_is_tokens_in_the_window_over_its_length() -> None:
    rate = SlidingRate()
    for i in range(1000):
        rate.add(7, i * 0.01)
    assert abs(rate.value(10.0) / 700 - 1) < 0.06
    assert rate.value(10.0 + RATE_SECONDS + 1) == 0


def test_the_rate_of_a_restarted_engine_is_never_negative() -> None:
    totals = LoadTotals()
    totals.update(Load(generation_tokens_total=1000), 0.0)
    totals.engine_ended()
    totals.update(Load(generation_tokens_total=1), 1.0)
    assert totals.tokens_per_second(1.0) == 1001 / RATE_SECONDS


def test_the_bulk_histogram_says_what_prometheus_own_says() -> None:
    bounds = (0.1, 0.5, 1.0)
    registry = CollectorRegistry()
    theirs = Histogram("h", "text", buckets=bounds, registry=registry)
    ours = BulkHistogram(bounds)
    for value, count in ((0.05, 3), (0.1, 2), (0.7, 1), (1.0, 1), (9.0, 4)):
        ours.observe(value, count)
        for _ in range(count):
            theirs.observe(value)
    (family,) = (f for f in registry.collect())
    expected = {
        (s.name, s.labels.get("le")): s.value
        for s in family.samples
        if not s.name.endswith("_created")
    }
    made = HistogramMetricFamily("h", "text", labels=[])
    ours.add_to(made)
    found = {(s.name, s.labels.get("le")): s.value for s in made.samples}
    assert found.keys() == expected.keys()
    assert all(abs(found[key] - expected[key]) < 1e-9 for key in found)
