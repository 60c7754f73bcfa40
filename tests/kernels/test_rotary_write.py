"""rotary_write: every implementation against a float64 oracle, transformers, and itself."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from kernels.impl import Impl
from kernels.rotary_write import rotary_write
from kernels.rotary_write.cases import CASES, Case, make
from tests.kernels.implementations import IMPLS, assert_close, device, moved_to, skip_unsupported
from tests.kernels.oracle import same_bits

BY_NAME = {case.name: case for case in CASES}
ROWS = ("qkv", "cos", "sin", "positions", "slots")


def turned(head: np.ndarray, norm: np.ndarray | None, inputs: dict[str, Any], token: int) -> Any:
    """One head, float64: normalised, and its pairs rotated one by one."""
    cos, sin = inputs["cos"][token].double().numpy(), inputs["sin"][token].double().numpy()
    if norm is not None:
        head = norm * head / np.sqrt(np.dot(head, head) / len(head) + inputs["eps"])
    out, half = head.copy(), len(cos) // 2
    for i in range(half):
        x, y = head[i], head[i + half]
        out[i] = x * cos[i] - y * sin[i]
        out[i + half] = y * cos[i + half] + x * sin[i + half]
    return out


def exact(inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Queries and keys, float64 [tokens, heads, head_dim] each, head by head."""
    heads, (_, kv_heads, _, dim) = inputs["heads"], inputs["keys"].shape
    rows = inputs["qkv"].double().unflatten(1, (heads + 2 * kv_heads, dim)).numpy()
    norms = [inputs["query_norm"], inputs["key_norm"]]
    norms = [None if norm is None else norm.double().numpy() for norm in norms]
    out = np.zeros((len(rows), heads + kv_heads, dim))
    for token, row in enumerate(rows):
        for head in range(heads + kv_heads):
            out[token, head] = turned(row[head], norms[head >= heads], inputs, token)
    both = torch.from_numpy(out)
    return both[:, :heads], both[:, heads:]


def run(inputs: dict[str, Any], impl: Impl) -> tuple[Tensor, dict[str, Any]]:
    """The result and all arguments afterwards, on the CPU; `inputs` stay as they are."""
    mine = moved_to(inputs, device(impl))
    result = rotary_write(**mine, impl=impl)
    return result.cpu(), moved_to(mine, "cpu")


def stored(pool: Tensor, slots: Tensor) -> Tensor:
    """What lies in the slots, [tokens, kv_heads, ...]."""
    block_size = pool.shape[2]
    return pool[slots // block_size, :, slots % block_size]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_oracle(case: Case, impl: Impl) -> None:
    skip_unsupported(impl, case.dtype)
    inputs = make(case)
    queries, keys = exact(inputs)
    reference, after_reference = run(inputs, Impl.REFERENCE)
    result, after = run(inputs, impl)
    assert result.dtype is case.dtype
    assert result.is_contiguous()
    assert_close(result, queries, reference)
    real = inputs["slots"] >= 0
    slots = inputs["slots"][real]
    yardstick = stored(after_reference["keys"], slots)
    assert_close(stored(after["keys"], slots), keys[real], yardstick)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_stores_every_token_and_touches_no_other_slot(case: Case, impl: Impl) -> None:
    skip_unsupported(impl, case.dtype)
    inputs = make(case)
    _, after = run(inputs, impl)
    slots = inputs["slots"][inputs["slots"] >= 0]
    tokens = (inputs["slots"] >= 0).nonzero()[:, 0]
    _, kv_heads, block_size, dim = inputs["keys"].shape
    expected = {name: inputs[name].clone() for name in ("values", "slot_positions")}
    values = inputs["qkv"][:, -kv_heads * dim :].unflatten(1, (kv_heads, dim))
    for token, slot in zip(tokens.tolist(), slots.tolist(), strict=True):
        block, offset = divmod(slot, block_size)
        expected["values"][block, :, offset] = values[token]
        expected["slot_positions"][block, :, offset] = inputs["positions"][token]
    for name, pool in expected.items():
        assert same_bits(after[name], pool), name
    written = after["slot_positions"] >= 0
    assert int(written.sum()) == len(slots) * kv_heads
    assert torch.equal(after["keys"].isnan(), ~written[..., None].expand_as(after["keys"]))
    if case.mass:
        assert torch.equal(after["slot_mass"], torch.where(written, 0.0, 7.0))
    assert all(same_bits(after[name], inputs[name]) for name in ROWS)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["odd", "partial-norms", "bf16-norms", "shared"])
def test_a_row_alone_equals_the_row_in_a_batch(name: str, impl: Impl) -> None:
    skip_unsupported(impl, BY_NAME[name].dtype)
    inputs = make(BY_NAME[name])
    batch, after = run(inputs, impl)
    for token in (0, len(batch) // 2, len(batch) - 1):
        one = {field: inputs[field][token : token + 1] for field in ROWS}
        alone, pool = run({**inputs, **one}, impl)
        assert same_bits(alone[0], batch[token])
        slot = inputs["slots"][token : token + 1]
        if int(slot) >= 0:
            assert same_bits(stored(pool["keys"], slot), stored(after["keys"], slot))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_agrees_with_transformers(dtype: torch.dtype, impl: Impl) -> None:
    skip_unsupported(impl, dtype)
    inputs = make(Case("any", 21, dtype=dtype, gap=2))
    split = inputs["qkv"].unflatten(1, (8, 32))
    query, key = apply_rotary_pos_emb(split[:, :4], split[:, 4:6], inputs["cos"], inputs["sin"])
    result, after = run(inputs, impl)
    keys = stored(after["keys"], inputs["slots"])
    if impl is Impl.REFERENCE or dtype is not torch.float32:
        assert same_bits(result, query)
        assert same_bits(keys, key)
    assert torch.allclose(result, query, rtol=0.0, atol=1e-6)
    assert torch.allclose(keys, key, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
def test_slices_of_the_steps_buffers_are_taken(impl: Impl) -> None:
    inputs = make(BY_NAME["odd"])
    whole, _ = run(inputs, impl)
    mine = moved_to(inputs, device(impl))
    mine.update({field: mine[field][3:] for field in ROWS})
    assert same_bits(rotary_write(**mine, impl=impl).cpu(), whole[3:])


BAD: dict[str, tuple[str, Any, type[Exception], str]] = {
    "qkv dtype": ("qkv", lambda t: t.half(), TypeError, "qkv is torch.float16"),
    "qkv width": ("qkv", lambda t: t[:, 1:], ValueError, r"expected \(9, 256\)"),
    "qkv axes": ("qkv", lambda t: t.sum(), ValueError, r"qkv has shape \(\)"),
    "qkv columns": ("qkv", lambda t: t.T.contiguous().T, ValueError, "last stride 1"),
    "heads": ("heads", lambda _: 3, ValueError, "heads is 3; expected a positive multiple of 2"),
    "no heads": ("heads", lambda _: 0, ValueError, "heads is 0"),
    "cos dtype": ("cos", lambda t: t.half(), TypeError, "cos is torch.float16; allowed: float32"),
    "cos odd": ("cos", lambda t: t[:, 1:], ValueError, r"\(9, 31\); expected .* even, 2 to 32"),
    "cos wide": ("cos", lambda t: t.repeat(1, 2), ValueError, r"\(9, 64\)"),
    "cos tokens": ("cos", lambda t: t[1:], ValueError, r"cos has shape \(8, 32\)"),
    "sin": ("sin", lambda t: t[:, 2:], ValueError, r"sin has shape \(9, 30\)"),
    "sin dtype": ("sin", lambda t: t.half(), TypeError, "sin is torch.float16"),
    "query_norm": ("query_norm", lambda t: t[1:], ValueError, r"query_norm has shape \(31,\)"),
    "key_norm": ("key_norm", lambda t: t.half(), TypeError, "key_norm is torch.float16"),
    "positions": ("positions", lambda t: t[1:], ValueError, r"positions has shape \(8,\)"),
    "slots dtype": ("slots", lambda t: t.int(), TypeError, "int32; expected torch.int64"),
    "slot_positions": ("slot_positions", lambda t: t[1:], ValueError, "slot_positions has"),
    "mass dtype": ("slot_mass", lambda t: t.half(), TypeError, "slot_mass is torch.float16"),
    "values": ("values", lambda t: t[1:], ValueError, "values have shape"),
    "device": ("qkv", lambda t: t.to("meta"), ValueError, "qkv is on meta"),
    "impl": ("impl", lambda _: "cuda", ValueError, "impl is 'cuda'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    field, change, error, message = BAD[name]
    inputs = {**make(Case("any", 9, norms=True)), "impl": None}
    inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        rotary_write(**inputs)


def test_the_reference_refuses_a_slot_outside_the_pool() -> None:
    inputs = make(BY_NAME["one"])
    inputs["slots"][0] = 48
    with pytest.raises(ValueError, match="slot 48 is outside the pool of 48 slots"):
        rotary_write(**inputs, impl="reference")
