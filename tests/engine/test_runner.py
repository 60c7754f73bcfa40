"""ModelRunner: what it says of itself, and what it refuses."""

import dataclasses
from pathlib import Path

import pytest
import torch

from engine.attention import register_attention
from engine.config import EngineConfig
from engine.eviction import POLICIES
from engine.loader import adopt_model
from engine.runner import ModelRunner
from scheduler.config import SchedulerConfig
from scheduler.request import FinishReason, Request, Sampling
from scheduler.scheduler import Scheduler
from tests.engine.harness import make_runner, run
from tests.engine.models import END_TOKEN, VOCABULARY, tiny_model


def test_it_describes_model_pool_and_policies() -> None:
    info = make_runner("qwen2", name="tiny", kv_blocks=33).describe()
    assert info.name == "tiny"
    assert info.architecture == "Qwen2ForCausalLM"
    assert (info.vocabulary_size, info.max_sequence_tokens) == (VOCABULARY, 512)
    assert (info.total_blocks, info.block_size) == (33, 16)
    assert info.kv_bytes_per_token == 2 * 3 * 2 * 16 * 4  # keys+values, layers, heads, dim, float32
    assert (info.dtype, info.device, info.kernels) == ("float32", "cpu", "numba")
    assert info.eos_token_ids == [END_TOKEN]
    assert {policy.name for policy in info.policies} == set(POLICIES)


def test_without_a_query_ring_policies_that_need_one_say_so() -> None:
    runner = make_runner("llama", query_ring=0)
    policies = {policy.name: policy for policy in runner.describe().policies}
    assert set(policies) == set(POLICIES)
    assert not any(policies[name].unavailable for name in ("window", "random", "key_diff"))
    for name, queries in {"r_kv": 16, "snapkv": 16, "h2o": 1}.items():
        assert f"reads the last {queries} queries" in policies[name].unavailable
        assert f"--query-ring {queries}" in policies[name].unavailable
    assert run(runner, [Request(1, (5, 6, 7), 5)])[1, 0].reason == FinishReason.LENGTH


def test_settings_do_not_ask_for_more_queries_than_the_ring_keeps() -> None:
    policies = make_runner("llama", query_ring=20).describe().policies
    windows = [s.maximum for p in policies for s in p.settings if s.name == "window"]
    assert windows
    assert max(windows) == 20


def test_the_pool_is_sized_from_memory() -> None:
    runner = make_runner("llama", kv_blocks=None, kv_memory_gib=1 / 1024)
    shape = runner._loaded.shape
    bookkeeping = 8 * shape.layers * shape.kv_heads  # position and received attention
    assert runner.total_blocks == (1 << 20) // ((768 + bookkeeping) * 16)
    whole = make_runner("llama", kv_blocks=None)
    assert whole.total_blocks == 8 * 512 // 16, "no more than max_running whole sequences need"
    with pytest.raises(ValueError, match="give the pool more"):
        make_runner("llama", kv_blocks=None, kv_memory_gib=1e-9)


def test_it_loads_a_local_directory(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    config = EngineConfig(str(tmp_path), device="cpu", kv_blocks=8, threads=1)
    runner = ModelRunner(config)
    assert runner.describe().name == tmp_path.name
    assert runner.describe().dtype == "float32"
    with pytest.raises(ValueError, match="allowed are auto, float32"):
        ModelRunner(dataclasses.replace(config, dtype="int3"))


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        ModelRunner(EngineConfig(str(tmp_path), device="cpu", kv_blocks=8, threads=1))


def test_a_model_whose_attention_is_not_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="AttentionInterface"):
        make_runner("llama", model=tiny_model("llama", "eager"))


def test_logprobs_come_with_the_rows_that_asked() -> None:
    config = SchedulerConfig(max_running=4, max_batch_tokens=16)
    loaded = adopt_model(tiny_model("llama", register_attention()), None)
    runner = ModelRunner(
        EngineConfig("llama", device="cpu", kv_blocks=8, threads=1, scheduler=config), loaded
    )
    asked = Request(1, (5, 6), 3, sampling=Sampling(temperature=0.0, logprobs=2))

    scheduler = Scheduler(config, runner.total_blocks)
    scheduler.submit(asked)
    plan = scheduler.plan(0.0)
    (drawn,) = scheduler.commit(plan, runner.execute(plan), 0.0)
    assert drawn.logprobs is not None
    eager = tiny_model("llama")(torch.tensor([[5, 6]])).logits[0, -1].log_softmax(-1)
    assert drawn.logprobs.logprob == pytest.approx(float(eager.max()), abs=1e-4)
    assert [token for token, _ in drawn.logprobs.top] == eager.topk(2).indices.tolist()
