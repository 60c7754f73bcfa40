"""What Prometheus scrapes: it parses, it moves, and it has no unbounded labels."""

import time
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from protos.sluice.v1 import sluice_pb2 as pb
from tests.service.harness import Harness, eventually, ids_request

LABELS = {"le", "policy", "finished_reason", "status"}


def scrape(harness: Harness) -> dict[str, float]:
    """Every sample of ours, as name{label value}."""
    url = f"http://127.0.0.1:{harness.server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("sluice_"):
                assert set(sample.labels) <= LABELS
                suffix = ",".join(sample.labels.values())
                key = f"{sample.name}{{{suffix}}}" if suffix else sample.name
                assert key not in samples
                samples[key] = sample.value
    return samples


def test_every_name_of_the_contract_is_there(fast: Harness) -> None:
    fast.run(fast.answer(ids_request([1], 2)))
    names = {key.split("{")[0] for key in scrape(fast)}
    assert names >= {
        f"sluice_{name}"
        for name in (
            *("generation_tokens_total", "prompt_tokens_total", "prompt_tokens_cached_total"),
            *("num_requests_running", "num_requests_waiting", "num_preemptions_total"),
            *("kv_blocks_used", "kv_blocks_free", "kv_blocks_cached", "kv_cache_usage_perc"),
            *("kv_tokens_resident", "kv_tokens_evicted_total", "kv_evictions_total"),
            *("generation_tokens_per_second", "engine_restarts_total", "request_success_total"),
            "time_to_first_token_seconds_bucket",
            "inter_token_latency_seconds_bucket",
            "e2e_request_latency_seconds_bucket",
            "step_duration_seconds_bucket",
        )
    }


def test_counters_move_by_what_was_done(fast: Harness) -> None:
    before = scrape(fast)
    budget = pb.KvBudget(max_tokens=64, policy="window")
    request = ids_request([1, 2, 3], 400, kv_budget=budget, sampling=pb.Sampling(n=2))
    answer = fast.run(fast.answer(request))
    after = scrape(fast)
    moved = {key: after[key] - before.get(key, 0) for key in after}
    evicted = sum(finished.usage.kv_tokens_evicted for finished in answer.finished.values())
    rounds = sum(finished.usage.eviction_rounds for finished in answer.finished.values())
    assert evicted > 0
    assert moved["sluice_generation_tokens_total"] == 800
    assert moved["sluice_kv_tokens_evicted_total{window}"] == evicted
    assert moved["sluice_kv_evictions_total{window}"] == rounds
    assert moved["sluice_kv_tokens_evicted_total{r_kv}"] == 0
    assert moved["sluice_request_success_total{length}"] == 2
    assert moved["sluice_time_to_first_token_seconds_count"] == 1
    assert moved["sluice_inter_token_latency_seconds_count"] == 798
    assert moved["sluice_e2e_request_latency_seconds_count"] == 1
    assert after["sluice_generation_tokens_per_second"] > 0


def test_refusals_are_counted_by_status(fast: Harness) -> None:
    key = "sluice_requests_refused_total{INVALID_ARGUMENT}"
    before = scrape(fast).get(key, 0)
    fast.run(fast.refusal(pb.GenerateRequest()))
    assert scrape(fast)[key] == before + 1


def test_gauges_show_what_runs(slow: Harness) -> None:
    async def scenario() -> None:
        stream = slow.inference.Generate(ids_request(list(range(100)), 500))
        while not (await stream.read()).HasField("tokens"):
            pass
        while_running = scrape(slow)
        assert while_running["sluice_num_requests_running"] == 1
        assert while_running["sluice_kv_tokens_resident"] >= 100
        assert 0 < while_running["sluice_kv_cache_usage_perc"] < 1
        stream.cancel()
        await eventually(slow.is_idle)
        assert scrape(slow)["sluice_num_requests_running"] == 0

    slow.run(scenario())


def test_metrics_answer_while_the_loop_is_blocked(fast: Harness) -> None:
    """The scrape runs here, on the very thread of the event loop, which therefore stands still."""

    async def scenario() -> None:
        started = time.monotonic()
        assert scrape(fast)["sluice_engine_restarts_total"] == 0
        assert time.monotonic() - started < 10

    fast.run(scenario())


def test_load_says_who_runs_by_budget_and_how_long_things_took(slow: Harness) -> None:
    async def scenario() -> None:
        budget, pair = pb.KvBudget(max_tokens=100), pb.Sampling(n=2)
        requests = [
            ids_request(list(range(50)), 300, kv_budget=budget, sampling=pair),
            ids_request(list(range(20)), 300),
        ]
        streams = [slow.inference.Generate(request) for request in requests]
        waiting_for = [{0, 1}, {0}]  # outputs without a token
        for stream, outputs in zip(streams, waiting_for, strict=True):
            while outputs:
                event = await stream.read()
                if event.HasField("tokens"):
                    outputs.discard(event.tokens.output_index)
        load = await slow.load()
        small, free = load.budget_classes
        assert [(small.max_tokens, small.running), (free.max_tokens, free.running)] == [
            (128, 2),
            (0, 1),
        ]
        assert small.tokens_resident + free.tokens_resident == load.tokens_resident
        assert small.blocks + free.blocks == load.blocks_used + load.blocks_shared
        assert load.blocks_shared == 3  # the prompt's whole blocks, of the second output
        assert load.first_token.count >= 2
        assert 0 < load.first_token.p50 <= load.first_token.p99
        for stream in streams:
            stream.cancel()
        await eventually(slow.is_idle)
        after = await slow.load()
        assert not after.budget_classes
        assert after.inter_token.count > 0
        assert after.request.count >= 2

    slow.run(scenario())
