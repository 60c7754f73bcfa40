"""The fp8 KV cache: scales, memory, what the engine computes with it, and where it is refused."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, DynamicCache

from engine import attention, kv_scales
from engine.attention import register_attention
from engine.config import EngineConfig
from engine.eviction import POLICIES
from engine.kv_pool import KvPool, KvShape
from engine.kv_scales import MARGIN, TEXT_TOKENS, with_kv_dtype
from engine.loader import adopt_model
from kernels.checks import FP8
from scheduler.budget import Budget, whole
from scheduler.config import SchedulerConfig
from scheduler.request import FinishReason, Request, Sampling
from tests.engine.harness import RecordingRunner, make_runner, run
from tests.engine.models import ARCHITECTURES, VOCABULARY, tiny_model
from tests.thorough import some

BLOCK = SchedulerConfig.block_size


def _pool(runner: RecordingRunner) -> KvPool:
    return runner._evictor._views.pool


def _prompt(length: int) -> tuple[int, ...]:
    draw = random.Random(length)
    return tuple(draw.randrange(3, VOCABULARY) for _ in range(length))


def test_a_quarter_of_the_memory_and_the_model_info_says_so() -> None:
    memory = {"kv_blocks": None, "kv_memory_gib": 10 * 16 * (768 + 48) / 2**30}  # bytes a token
    wide, narrow = (make_runner("llama", kv_dtype=name, **memory) for name in ("auto", "fp8_e4m3"))
    assert (wide.total_blocks, narrow.total_blocks) == (10, 10 * (768 + 48) // (192 + 48))
    info = narrow.describe()
    assert info.kv_bytes_per_token == wide.describe().kv_bytes_per_token // 4
    assert (info.dtype, wide.describe().dtype) == ("float32, KV float8_e4m3fn", "float32")
    assert info.kernels == "numba"
    pool = _pool(narrow)
    assert pool.keys.dtype is pool.values.dtype is FP8
    assert _pool(wide).key_scales is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scales_leave_a_margin_above_the_largest_key_and_value_of_a_text(architecture: str) -> None:
    """Against the cache that transformers itself keeps of the same text."""
    runner = make_runner(architecture, kv_dtype="fp8_e4m3")
    draw = random.Random(0)
    text = torch.tensor([[draw.randrange(VOCABULARY) for _ in range(TEXT_TOKENS)]])
    cache = DynamicCache()  # of a config it would drop what leaves Gemma's windows
    tiny_model(architecture)(text, past_key_values=cache, use_cache=True)
    pool = _pool(runner)
    assert pool.key_scales is not None
    assert pool.value_scales is not None
    for layer, held in enumerate(cache.layers):
        for scales, exact in ((pool.key_scales, held.keys), (pool.value_scales, held.values)):
            expected = exact[0].abs().amax(dim=(1, 2)) * MARGIN / 448  # of [kv_heads, tokens, dim]
            torch.testing.assert_close(scales[layer], expected, rtol=1e-4, atol=0)


def _dense(pool: KvPool) -> Callable[..., tuple[torch.Tensor, None]]:
    """Attention for transformers over whole sequences, of keys and values that went through fp8."""

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,  # [1, heads, tokens, head_dim]
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        sliding_window: int | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        assert pool.key_scales is not None
        assert pool.value_scales is not None
        layer: int = module.layer_idx  # type: ignore[assignment]
        of_keys, of_values = pool.key_scales[layer], pool.value_scales[layer]
        held = []
        for numbers, scales in ((key, of_keys), (value, of_values)):
            scale = scales[:, None, None]
            stored = (numbers / scale).clamp(-448, 448).to(FP8).float() * scale
            held.append(stored.repeat_interleave(query.shape[1] // key.shape[1], dim=1))
        token = torch.arange(query.shape[2])
        age = token[:, None] - token
        hidden = (age < 0) | (age >= (sliding_window or len(token)))
        logits = (scaling * query @ held[0].mT).masked_fill(hidden, -torch.inf)
        return (logits.softmax(-1) @ held[1]).transpose(1, 2), None

    return attend


def _largest_difference(runner: RecordingRunner, architecture: str) -> float:
    """Largest difference of any row of logits from a dense forward with an fp8 cache."""
    requests = [Request(length, _prompt(length), 12) for length in (1, 17, 40)]
    outcomes = run(runner, requests, stagger=2)
    AttentionInterface.register("dense-fp8", _dense(_pool(runner)))
    model = tiny_model(architecture, "dense-fp8")
    worst = 0.0
    for request in requests:
        tokens = [*request.prompt, *outcomes[request.key, 0].tokens]
        exact = model(torch.tensor([tokens[:-1]]), use_cache=False).logits[0]
        for (key, _, position), row in runner.rows.items():
            if key == request.key:
                worst = max(worst, float((row - exact[position]).abs().max()))
    return worst


# logits spread by about 1; a number whose rounding another order of summation turns moves them by
# about a thousandth
TOLERANCE = 5e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernels", ["numba", "reference"])
def test_logits_equal_those_of_a_dense_fp8_cache(architecture: str, kernels: str) -> None:
    runner = make_runner(architecture, kernels=kernels, kv_dtype="fp8_e4m3")
    assert _largest_difference(runner, architecture) <= TOLERANCE
    assert len(runner.rows) == 36


@pytest.mark.parametrize("name", ["write_kv", "paged_decode", "paged_prefill"])
def test_scales_of_another_head_or_layer_would_show(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original = getattr(attention, name)

    def wrong(*args: Any, key_scales: torch.Tensor, **kwargs: Any) -> Any:
        return original(*args, key_scales=key_scales.flip(0), **kwargs)

    runner = make_runner("llama", kv_dtype="fp8_e4m3")
    monkeypatch.setattr(attention, name, wrong)
    assert _largest_difference(runner, "llama") > 5 * TOLERANCE


def test_a_pool_gathers_the_numbers_that_its_codes_mean() -> None:
    shape = KvShape(2, 4, 3, 8, hidden_size=32, dtype=torch.float32, kv_dtype=FP8)
    pool = KvPool(shape, blocks=5, block_size=4, device=torch.device("cpu"))
    torch.manual_seed(1)
    assert pool.key_scales is not None
    assert pool.value_scales is not None
    for held, scales in ((pool.keys, pool.key_scales), (pool.values, pool.value_scales)):
        held.copy_(torch.randn(held.shape) * 50)
        scales.copy_(torch.rand(scales.shape) + 0.5)
    table = [3, 1]
    runs = pool.runs(torch.tensor([table]))
    for held, scales in ((pool.keys, pool.key_scales), (pool.values, pool.value_scales)):
        gathered = pool.gather(held, runs, 6)
        assert gathered.shape == (1, 2, 3, 6, 8)
        assert gathered.dtype is torch.float32
        for layer, head, token in ((0, 0, 0), (1, 2, 3), (0, 1, 4), (1, 0, 5)):
            code = held[layer, table[token // 4], head, token % 4]
            assert torch.equal(gathered[0, layer, head, token], code.float() * scales[layer, head])
    assert pool.gather(pool.positions, runs, 6).dtype is torch.int32


@pytest.mark.parametrize("policy", some(POLICIES, 2))
def test_every_policy_evicts_from_it_as_the_reference_kernels_do(policy: str) -> None:
    """numba's and torch's kernels round alike, so the same entries stay and the same tokens come.

    Written codes may differ where float32 sums in another order; on these models they do not.
    """
    reclaim = whole(9, BLOCK) if POLICIES[policy].whole_blocks else 9
    unit = BLOCK if POLICIES[policy].whole_blocks else 1
    budget = Budget(
        cap=48, policy=policy, policy_settings={}, recent=6, pinned=11, reclaim=reclaim, unit=unit
    )
    request = Request(
        1,
        _prompt(11),
        70,
        sampling=Sampling(temperature=0.0, seed=5),
        budget=replace(budget, cap=max(48, budget.least)),
    )
    outcomes = [
        run(make_runner("llama", kernels=kernels, kv_dtype="fp8_e4m3"), [request])[1, 0]
        for kernels in ("numba", "reference")
    ]
    assert outcomes[0].usage.eviction_rounds > 1
    assert outcomes[0].reason is FinishReason.LENGTH
    assert outcomes[0].tokens == outcomes[1].tokens


def test_a_head_of_zeros_has_a_scale_to_divide_by() -> None:
    model = tiny_model("llama", register_attention())
    model.model.layers[1].self_attn.v_proj.weight[:16] = 0.0
    runner = make_runner("llama", model=model, kv_dtype="fp8_e4m3")
    scales = _pool(runner).value_scales
    assert scales is not None
    assert scales[1, 0] == 1.0
    assert (scales[0] < 1.0).all()
    outcome = run(runner, [Request(1, _prompt(9), 5)])[1, 0]
    assert outcome.reason is FinishReason.LENGTH


def test_keys_that_are_not_finite_are_refused() -> None:
    model = tiny_model("llama", register_attention())
    model.model.layers[2].self_attn.k_proj.weight[0] = torch.inf
    with pytest.raises(ValueError, match="LlamaForCausalLM makes keys or values that are not fin"):
        make_runner("llama", model=model, kv_dtype="fp8_e4m3")


def test_unknown_types_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="kv_dtype is 'int4'; allowed are auto, fp8_e4m3"):
        make_runner("llama", kv_dtype="int4")


def test_gpus_on_which_triton_cannot_convert_fp8_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = adopt_model(tiny_model("llama", register_attention()), None)
    config, gpu = EngineConfig(kv_dtype="fp8_e4m3"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(ValueError, match=r"capability 8\.6; .* use kv_dtype 'auto'"):
        with_kv_dtype(loaded, config, gpu)
    reference = replace(config, kernels="reference")
    assert with_kv_dtype(loaded, reference, gpu).shape.stored is FP8
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert with_kv_dtype(loaded, config, gpu).shape.stored is FP8
    assert kv_scales.KV_DTYPES["auto"] is None
