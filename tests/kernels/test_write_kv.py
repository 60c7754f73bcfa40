"""write_kv: every implementation stores what it was given, where it was told, nothing else."""

from typing import Any

import pytest
import torch

from kernels.checks import FP8
from kernels.impl import Impl
from kernels.write_kv import write_kv
from kernels.write_kv.cases import CASES, Case, make
from tests.kernels.implementations import IMPLS, device, skip_unsupported
from tests.kernels.oracle import same_bits

BY_NAME = {case.name: case for case in CASES}
POOLS = ("keys", "values", "slot_positions", "slot_mass")


def written(inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The pools after the write, token by token and head by head."""
    after = {name: inputs[name].clone() for name in POOLS if inputs[name] is not None}
    pool, of_keys, of_values = inputs["keys"].dtype, inputs["key_scales"], inputs["value_scales"]
    block_size = inputs["keys"].shape[2]
    for token, slot in enumerate(inputs["slots"].tolist()):
        if slot < 0:
            continue
        block, offset = divmod(slot, block_size)
        for head in range(inputs["keys"].shape[1]):
            key, value = inputs["key"][token, head], inputs["value"][token, head]
            if pool is FP8:
                key = (key.float() / of_keys[head]).clamp(-448, 448).to(FP8)
                value = (value.float() / of_values[head]).clamp(-448, 448).to(FP8)
            after["keys"][block, head, offset] = key
            after["values"][block, head, offset] = value
            after["slot_positions"][block, head, offset] = inputs["positions"][token]
            if "slot_mass" in after:
                after["slot_mass"][block, head, offset] = 0.0
    return after


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_stores_every_token_and_touches_no_other_slot(case: Case, impl: Impl) -> None:
    skip_unsupported(impl, case.dtype)
    inputs = make(case, device(impl))
    expected = written(inputs)
    write_kv(**inputs, impl=impl)
    for name, pool in expected.items():
        assert same_bits(inputs[name], pool), name


def test_cases_cover_strided_inputs() -> None:
    strides = {case.layout: make(case)["key"].is_contiguous() for case in CASES if case.tokens > 1}
    assert strides == {"contiguous": True, "transposed": False, "fused": False}


@pytest.mark.parametrize("impl", IMPLS)
def test_any_last_stride_is_taken(impl: Impl) -> None:
    inputs = make(BY_NAME["contiguous"], device(impl))
    expected = written(inputs)
    inputs["key"] = inputs["key"].transpose(1, 2).contiguous().transpose(1, 2)
    assert inputs["key"].stride(2) != 1
    write_kv(**inputs, impl=impl)
    assert same_bits(inputs["keys"], expected["keys"])


def codes() -> torch.Tensor:
    """Every finite number that an fp8 pool can hold, ascending."""
    every = torch.arange(256, dtype=torch.uint8).view(FP8).float()
    return every[~every.isnan()].sort().values


def stored(numbers: torch.Tensor, scale: float, impl: Impl) -> torch.Tensor:
    """What an fp8 pool of one head and block then holds, as bytes on the CPU."""
    inputs = make(Case("fp8", 1, kv_heads=1, head_dim=len(numbers), fp8=True), device(impl))
    inputs["key"] = numbers.view(1, 1, -1).to(inputs["key"].device)
    inputs["value"] = -inputs["key"]
    for name in ("key_scales", "value_scales"):
        inputs[name].fill_(scale)
    inputs["slots"].zero_()
    write_kv(**inputs, impl=impl)
    kept = torch.cat([inputs["keys"][0, 0, 0], inputs["values"][0, 0, 0]])
    return kept.cpu().view(torch.uint8)


@pytest.mark.parametrize("impl", IMPLS)
def test_fp8_rounds_to_the_nearest_code_and_ties_to_the_even_one(impl: Impl) -> None:
    """Against torch's conversion: all codes, the middles between them, and their neighbours."""
    exact = codes()
    middles = (exact[1:] + exact[:-1]) / 2
    beyond = torch.tensor(torch.inf)
    around = [torch.nextafter(middles, beyond), torch.nextafter(middles, -beyond)]
    numbers = torch.cat([exact, middles, *around, torch.tensor([-0.0, 1e-9, -1e-9, 1e-40])])
    for scale in (1.0, 2.0**-7):
        expected = torch.cat([numbers, -numbers]).to(FP8).view(torch.uint8)
        assert torch.equal(stored(numbers * scale, scale, impl), expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_fp8_divides_as_float32_does(impl: Impl) -> None:
    """Numbers chosen to lie at the middle of two codes after the division, or just beside it."""
    exact, scale = codes(), 0.0137
    middles = (exact[1:] + exact[:-1]) / 2 * scale
    numbers = torch.cat([middles, middles.bfloat16().float(), torch.randn(500).exp()])
    expected = (torch.cat([numbers, -numbers]) / scale).clamp(-448, 448).to(FP8)
    assert torch.equal(stored(numbers, scale, impl), expected.view(torch.uint8))


@pytest.mark.parametrize("impl", IMPLS)
def test_fp8_clamps_what_is_too_large_and_keeps_nan(impl: Impl) -> None:
    numbers = torch.tensor([449.0, 464.0, 480.0, 1e30, torch.inf, torch.nan])
    held = stored(numbers, 1.0, impl).view(FP8).float()
    assert held[:5].tolist() == [448.0] * 5
    assert held[6:11].tolist() == [-448.0] * 5
    assert held[[5, 11]].isnan().all()


BAD: dict[str, tuple[str, Any, type[Exception], str]] = {
    "key dtype": ("key", lambda t: t.half(), TypeError, "key is torch.float16"),
    "key heads": ("key", lambda t: t[:, :1], ValueError, r"\(17, 1, 32\).*\[tokens, 2, 32\]"),
    "value tokens": ("value", lambda t: t[1:], ValueError, r"\(17, 2, 32\), value \(16, 2, 32\)"),
    "value dim": ("value", lambda t: t[..., 1:], ValueError, r"\(17, 2, 31\)"),
    "positions": ("positions", lambda t: t[1:], ValueError, r"positions has shape \(16,\)"),
    "positions dtype": ("positions", lambda t: t.long(), TypeError, "int64; expected torch.int32"),
    "slots dtype": ("slots", lambda t: t.int(), TypeError, "int32; expected torch.int64"),
    "strided slots": ("slots", lambda t: t.repeat(2)[::2], ValueError, r"strides \(2,\)"),
    "slot_positions": (
        "slot_positions",
        lambda t: t[:, :1],
        ValueError,
        "slot_positions has",
    ),
    "mass dtype": ("slot_mass", lambda t: t.half(), TypeError, "slot_mass is torch.float16"),
    "keys": ("keys", lambda t: t[:, :, :0], ValueError, r"none of them 0"),
    "device": ("key", lambda t: t.to("meta"), ValueError, "key is on meta, keys on cpu"),
    "impl": ("impl", lambda _: "cuda", ValueError, "impl is 'cuda'"),
    "scales": (
        "value_scales",
        lambda _: torch.ones(2),
        ValueError,
        r"value_scales is of shape \(2,\) with keys of torch.float32",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    field, change, error, message = BAD[name]
    inputs = {**make(BY_NAME["contiguous"]), "impl": None}
    inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        write_kv(**inputs)


BAD_FP8: dict[str, tuple[str, Any, type[Exception], str]] = {
    "no scales": ("key_scales", lambda _: None, ValueError, "key_scales is None.*needs scales"),
    "scales": ("value_scales", lambda t: t[1:], ValueError, r"value_scales has shape \(2,\)"),
    "scales dtype": ("key_scales", lambda t: t.double(), TypeError, "key_scales is torch.float64"),
    "key dtype": ("key", lambda t: t.to(FP8), TypeError, "key is torch.float8_e4m3fn"),
    "value dtype": ("value", lambda t: t.half(), TypeError, "value is torch.float16, key"),
    "values": ("values", lambda t: t.float(), TypeError, "values are torch.float32, keys"),
}


@pytest.mark.parametrize("name", BAD_FP8)
def test_bad_input_beside_an_fp8_pool_raises_with_the_value(name: str) -> None:
    field, change, error, message = BAD_FP8[name]
    inputs = make(BY_NAME["fp8"])
    inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        write_kv(**inputs)


def test_the_reference_refuses_a_slot_outside_the_pool() -> None:
    inputs = make(BY_NAME["one"])
    inputs["slots"][0] = 48
    with pytest.raises(ValueError, match="slot 48 is outside the pool of 48 slots"):
        write_kv(**inputs, impl="reference")
