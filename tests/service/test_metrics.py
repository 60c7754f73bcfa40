"""What Prometheus scrapes: it parses, it moves, and it has no unbounded labels."""

import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from engine.messages import BudgetClass, Load
from protos.sluice.v1 import sluice_pb2 as pb
from service.errors import ServiceError
from service.metrics import REFUSALS, ServiceMetrics
from service.totals import LoadTotals
from tests.service.harness import Harness, config, eventually, fake_tokens, ids_request

LABELS = {
    *("le", "policy", "model_name", "finished_reason", "status", "reason", "phase", "budget"),
    *("method", "code", "block_size", "num_gpu_blocks"),
}


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
            *("request_time_per_output_token_seconds_bucket", "request_queue_time_seconds_bucket"),
            *("request_prefill_time_seconds_bucket", "request_decode_time_seconds_bucket"),
            *("batch_size_bucket", "iteration_tokens_bucket", "kv_blocks_leaked"),
            *("grpc_server_handled_total", "event_loop_lag_seconds", "cache_config_info"),
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
    assert moved["sluice_request_success_total{length,fake}"] == 2
    assert moved["sluice_time_to_first_token_seconds_count"] == 1
    assert moved["sluice_inter_token_latency_seconds_count"] == 798
    assert moved["sluice_e2e_request_latency_seconds_count"] == 1
    assert after["sluice_generation_tokens_per_second"] > 0
    assert moved["sluice_requests_accepted_total{window}"] == 1
    assert moved["sluice_request_kv_budget_tokens_sum"] == 64
    assert moved["sluice_request_kv_peak_tokens_sum"] == 2 * 64
    assert moved["sluice_request_kv_compression_ratio_sum"] == 2 * (3 + 400 - 1) / 64
    assert moved["sluice_request_generation_tokens_sum"] == 800
    assert moved["sluice_request_prompt_tokens_sum"] == 2 * 3
    times = [usage.usage.decode_seconds for usage in answer.finished.values()]
    assert moved["sluice_request_decode_time_seconds_sum"] == pytest.approx(sum(times))
    each = sum(seconds / 399 for seconds in times)
    assert moved["sluice_request_time_per_output_token_seconds_sum"] == pytest.approx(each)
    assert moved["sluice_batch_size_sum"] == moved["sluice_iteration_tokens_sum"] - (3 - 1) * 2
    assert moved["sluice_grpc_server_handled_total{OK,sluice.v1.Inference/Generate}"] == 1
    assert after["sluice_kv_blocks_leaked"] == 0
    assert after["sluice_engine_up"] == 1


def test_refusals_are_counted_by_status(fast: Harness) -> None:
    key = "sluice_requests_refused_total{INVALID_ARGUMENT}"
    before = scrape(fast).get(key, 0)
    fast.run(fast.refusal(pb.GenerateRequest()))
    assert scrape(fast)[key] == before + 1


def test_references_without_an_owner_are_leaked_blocks() -> None:
    registry, totals = CollectorRegistry(), LoadTotals()
    ServiceMetrics(registry, totals)
    held = [BudgetClass(bound=0, running=2, waiting=0, blocks=7, tokens=100)]
    totals.update(Load(blocks_used=5, blocks_shared=2, budget_classes=held), 1.0)
    assert registry.get_sample_value("sluice_kv_blocks_leaked") == 0
    totals.update(Load(blocks_used=8, blocks_shared=2, budget_classes=held), 2.0)
    assert registry.get_sample_value("sluice_kv_blocks_leaked") == 3


def test_every_status_of_a_refusal_is_counted_from_zero() -> None:
    codes = {error.code.name for error in ServiceError.__subclasses__()}
    assert codes <= set(REFUSALS)


def test_calls_are_counted_by_the_status_that_the_caller_gets(slow: Harness) -> None:
    generate = "sluice.v1.Inference/Generate"

    async def scenario() -> None:
        stream = slow.inference.Generate(ids_request([1], 500))
        await stream.read()
        stream.cancel()
        await slow.refusal(ids_request([1], 500), timeout=0.3)
        await slow.refusal(pb.GenerateRequest())
        unknown = slow.channel.unary_unary("/sluice.v1.Inference/Nonsense")
        with pytest.raises(grpc.aio.AioRpcError):
            await unknown(b"")
        await eventually(slow.is_idle)
        expected = {
            *((code, generate) for code in ("CANCELLED", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT")),
            ("UNIMPLEMENTED", "unknown"),
        }

        async def counted() -> bool:
            after = scrape(slow)
            keys = [f"sluice_grpc_server_handled_total{{{','.join(one)}}}" for one in expected]
            return all(after.get(key, 0) > before.get(key, 0) for key in keys)

        await eventually(counted)

    before = scrape(slow)
    slow.run(scenario())


def test_names_that_callers_make_up_are_counted_as_one(launch, tmp_path: Path) -> None:
    """Also those that are denied before anybody looks whether they are served."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[alice]\ntokens = ["alice-0123456789"]\n')
    harness = launch(config(metrics_port=0, tokens_file=str(tokens)))

    async def scenario() -> None:
        for i in range(5):
            with pytest.raises(grpc.aio.AioRpcError, match="bearer token"):
                await harness.channel.unary_unary(f"/made.up/Name{i}")(b"")
        with pytest.raises(grpc.aio.AioRpcError, match="bearer token"):
            await harness.load()

    harness.run(scenario())
    found = scrape(harness)
    assert not [key for key in found if "made.up" in key]
    counted = "sluice_grpc_server_handled_total{UNAUTHENTICATED,%s}"
    assert found[counted % "unknown"] == 5
    assert found[counted % "sluice.v1.Control/GetLoad"] == 1


def test_an_output_that_never_ran_has_a_queue_time_and_no_other(slow: Harness) -> None:
    async def scenario() -> None:
        running = [slow.inference.Generate(ids_request([1], 500)) for _ in range(4)]
        for stream in running:
            while not (await stream.read()).HasField("tokens"):
                pass
        before = scrape(slow)
        late = slow.inference.Generate(ids_request([1], 500))
        await late.read()
        waiting = scrape(slow)
        assert waiting["sluice_num_requests_waiting"] == 1
        assert waiting["sluice_num_requests_waiting_by_reason{max_running}"] == 1
        late.cancel()

        async def counted() -> bool:
            name = "sluice_request_queue_time_seconds_count"
            return scrape(slow)[name] == before[name] + 1

        await eventually(counted)
        after = scrape(slow)
        for name in ("prefill_time_seconds", "decode_time_seconds", "kv_peak_tokens"):
            key = f"sluice_request_{name}_count"
            assert after[key] == before[key]
        for stream in running:
            stream.cancel()
        await eventually(slow.is_idle)

    slow.run(scenario())


def test_steps_are_timed_by_phase(fast: Harness) -> None:
    before = scrape(fast)
    fast.run(fast.answer(ids_request(list(range(40)), 10)))
    after = scrape(fast)
    name = "sluice_step_duration_seconds_count{%s}"
    steps = {
        phase: after[name % phase] - before[name % phase]
        for phase in ("prefill", "decode", "mixed")
    }
    assert steps == {"prefill": 1, "decode": 9, "mixed": 0}


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


def test_a_resumed_answer_counts_what_was_drawn_here(slow: Harness) -> None:
    """Tokens that the request brought along were neither drawn nor waited for by this server."""
    prompt, before = [9, 8, 7], scrape(slow)
    request = ids_request(prompt, 40, resumed=pb.TokenIds(ids=fake_tokens(prompt, 36)))
    answer = slow.run(slow.answer(request))
    moved = {key: count - before.get(key, 0) for key, count in scrape(slow).items()}
    assert answer.finished[0].usage.completion_tokens == 40
    assert moved["sluice_request_generation_tokens_sum"] == 4
    decoding = moved["sluice_request_decode_time_seconds_sum"]
    each = moved["sluice_request_time_per_output_token_seconds_sum"]
    assert each == pytest.approx(decoding / 3)
