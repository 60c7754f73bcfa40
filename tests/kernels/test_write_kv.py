"""write_kv: every implementation stores what it was given, where it was told, nothing else."""

from typing import Any

import pytest
import torch

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
    block_size = inputs["keys"].shape[2]
    for token, slot in enumerate(inputs["slots"].tolist()):
        if slot < 0:
            continue
        block, offset = divmod(slot, block_size)
        for head in range(inputs["keys"].shape[1]):
            after["keys"][block, head, offset] = inputs["key"][token, head]
            after["values"][block, head, offset] = inputs["value"][token, head]
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
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    field, change, error, message = BAD[name]
    inputs = {**make(BY_NAME["contiguous"]), "impl": None}
    inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        write_kv(**inputs)


def test_the_reference_refuses_a_slot_outside_the_pool() -> None:
    inputs = make(BY_NAME["one"])
    inputs["slots"][0] = 48
    with pytest.raises(ValueError, match="slot 48 is outside the pool of 48 slots"):
        write_kv(**inputs, impl="reference")
