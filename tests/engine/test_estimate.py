"""What doctor tells of a pool is what the engine would have."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from engine.config import EngineConfig, SchedulerConfig
from engine.device import choose_device
from engine.estimate import BUDGETS, PoolEstimate, concurrency, machine, pool_estimate
from engine.process import build_runner
from scheduler.scheduler import Scheduler
from tests.builders import make_request

MODEL = str(Path(__file__).parents[2] / "models" / "pocket-llama")


def pool(blocks: int, longest: int, running: int = 64, size: int = 16) -> PoolEstimate:
    return PoolEstimate("numba", "float32", 1, 1, 0, longest, running, size, blocks, "")


@pytest.mark.parametrize(
    "change",
    [
        {"kv_memory_gib": 0.002},
        {"kv_blocks": 77},
        {"kv_dtype": "fp8_e4m3", "kv_memory_gib": 0.002, "max_sequence_tokens": 200},
        {"scheduler": SchedulerConfig(max_running=2, block_size=8)},
    ],
)
def test_it_is_what_the_engine_gets(change: dict) -> None:
    config = dataclasses.replace(EngineConfig(model=MODEL, fused=False, device="cpu"), **change)
    told, had = pool_estimate(config), build_runner(config).describe()
    assert told.blocks == had.total_blocks
    assert told.kv_bytes_per_token == had.kv_bytes_per_token
    assert told.max_sequence_tokens == had.max_sequence_tokens
    assert (told.dtype, told.kernels) == (had.dtype, had.kernels)
    assert told.block_size == had.block_size


def test_the_fake_model_as_well() -> None:
    for config in (EngineConfig(), EngineConfig(kv_blocks=9, max_sequence_tokens=50)):
        told, had = pool_estimate(config), build_runner(config).describe()
        assert told.blocks == had.total_blocks
        assert told.max_sequence_tokens == had.max_sequence_tokens


@pytest.mark.parametrize(("blocks", "running"), [(1000, 64), (1000, 5), (31, 64), (330, 7)])
def test_the_scheduler_runs_so_many_at_once(blocks: int, running: int) -> None:
    longest = 3000
    rows = concurrency(pool(blocks, longest, running))
    assert [row.budget for row in rows] == [512, 1024, 2048, None]
    for row in rows[:-1]:
        settings = SchedulerConfig(max_running=running, max_batch_tokens=4096)
        scheduler = Scheduler(settings, blocks)
        requests = [make_request(1, longest - 1, cap=row.budget) for _ in range(running + 3)]
        if row.blocks > blocks:
            assert row.at_once == 0
            continue
        for request in requests:
            scheduler.submit(request)
        scheduler.plan(0.0)
        assert len(scheduler.running) == row.at_once, row
        assert (row.limit == "--max-running") == (row.at_once == running)


def test_whole_answers_that_fit_side_by_side() -> None:
    for blocks, longest in itertools.product((1, 99, 1000), (100, 3000)):
        row = concurrency(pool(blocks, longest, running=10_000))[-1]
        assert row.budget is None
        assert row.blocks * 16 >= longest > (row.blocks - 1) * 16
        assert row.at_once * row.blocks <= blocks < (row.at_once + 1) * row.blocks


def test_every_budget_below_the_length_has_a_row() -> None:
    assert [row.budget for row in concurrency(pool(10, 40_000))] == [*BUDGETS, None]
    assert [row.budget for row in concurrency(pool(10, 512))] == [None]


def test_what_decides_is_said() -> None:
    for change, said in (
        ({}, "--max-running outputs"),
        ({"kv_memory_gib": 0.001}, "--kv-memory-gib"),
        ({"kv_blocks": 5}, "--kv-blocks"),
    ):
        assert pool_estimate(EngineConfig(model=MODEL, device="cpu", **change)).limit.startswith(
            said
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"device": "gpu"}, "device is 'gpu'; allowed are auto, cpu"),
        ({"dtype": "int4"}, "dtype is 'int4'; allowed are auto, float32"),
        ({"kv_memory_gib": 0.0}, "hold no KV block"),
    ],
)
def test_settings_that_cannot_be(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pool_estimate(EngineConfig(model=MODEL, **change))


def test_the_device_is_named() -> None:
    assert machine("cpu").device == "cpu"
    assert machine("cpu").name == ""
    assert choose_device("cpu").type == "cpu"
