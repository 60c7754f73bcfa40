"""paged_decode: every implementation against the dense oracle, and what must not be read."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.checks import FP8
from kernels.impl import Impl
from kernels.paged_decode import paged_decode
from kernels.paged_decode.cases import CASES, Case, make
from tests.kernels import oracle
from tests.kernels.implementations import (
    IMPLS,
    assert_close,
    device,
    moved_to,
    skip_unsupported,
)

BY_NAME = {case.name: case for case in CASES}


@cache
def expected(case: Case, where: str) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The inputs on that device, and on the CPU the exact answer and the reference's."""
    inputs = make(case, where)
    on_cpu = moved_to(inputs, "cpu")
    return inputs, oracle.attention(on_cpu), paged_decode(**on_cpu, impl=Impl.REFERENCE)


def row(inputs: dict[str, Any], index: int) -> dict[str, Any]:
    """The arguments of one row alone, with a table no wider than it needs."""
    block_size = inputs["keys"].shape[2]
    width = max(1, -(-int(inputs["lengths"][index]) // block_size))
    alone = dict(inputs)
    for name in ("query", "lengths", "query_positions"):
        alone[name] = None if inputs[name] is None else inputs[name][index : index + 1]
    alone["block_tables"] = inputs["block_tables"][index : index + 1, :width]
    return alone


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_oracle_and_reads_no_poison(case: Case, impl: Impl) -> None:
    skip_unsupported(impl, case.dtype)
    inputs, exact, reference = expected(case, device(impl))
    result = paged_decode(**inputs, impl=impl)
    assert result.dtype == case.dtype
    assert result.is_contiguous()
    assert_close(result, exact, reference)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["pocket", "window", "splits", "group7-dim128", "fp8"])
def test_a_row_alone_equals_the_row_in_a_batch(name: str, impl: Impl) -> None:
    skip_unsupported(impl, BY_NAME[name].dtype)
    inputs, _, _ = expected(BY_NAME[name], device(impl))
    together = paged_decode(**inputs, impl=impl)
    for index in range(len(together)):
        alone = paged_decode(**row(inputs, index), impl=impl)
        assert torch.equal(alone[0], together[index])


@pytest.mark.parametrize("impl", IMPLS)
def test_a_row_without_entries_is_zeros_and_its_table_is_not_read(impl: Impl) -> None:
    inputs = make(BY_NAME["padded-rows"], device(impl))
    unused = inputs["block_tables"] == 0  # the poison block
    inputs["block_tables"][unused] = 2**30
    result = paged_decode(**inputs, impl=impl)
    empty = inputs["lengths"] == 0
    assert (result[empty] == 0).all()
    assert (result[~empty] != 0).any(dim=-1).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_single_entry_is_its_value(impl: Impl) -> None:
    inputs = make(Case("one", (1,), kv_heads=1, group=3, dtype=torch.float32), device(impl))
    result = paged_decode(**inputs, impl=impl)
    value = inputs["values"][inputs["block_tables"][0, 0].long(), 0, 0]
    assert torch.equal(result, value.expand(1, 3, -1))


@pytest.mark.parametrize("impl", IMPLS)
def test_every_code_of_an_fp8_pool_is_read_as_torch_reads_it(impl: Impl) -> None:
    """Half of the codes in each of two heads: finite ones, NaN would be everywhere."""
    codes = torch.cat([torch.arange(127), torch.zeros(1), torch.arange(128, 255), torch.zeros(1)])
    held = codes.to(torch.uint8).view(FP8).view(1, 2, 1, 128).to(device(impl))
    inputs = make(Case("codes", (1,), head_dim=128, block_size=1, fp8=True), device(impl))
    inputs |= {"values": held, "keys": held.clone(), "block_tables": inputs["block_tables"] * 0}
    result = paged_decode(**inputs, impl=impl).view(2, 2, 128)
    expected = held[0].float() * inputs["value_scales"][:, None, None]
    torch.testing.assert_close(result, expected.expand(2, 2, 128), rtol=1e-6, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_poison_of_an_fp8_pool_is_nan_of_both_signs_and_a_used_one_shows(impl: Impl) -> None:
    inputs = make(BY_NAME["fp8"], device(impl))
    assert inputs["keys"].view(torch.uint8).eq(0x7F).any()
    assert inputs["values"].view(torch.uint8).eq(0xFF).any()
    if impl is Impl.TRITON and device(impl) == "cpu":
        pytest.skip("Triton's interpreter reads the NaN codes as 480")
    inputs["lengths"][0] += 1  # a slot nobody wrote
    result = paged_decode(**inputs, impl=impl)
    assert result[0].isnan().any()
    assert not result[1:].isnan().any()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_window_that_hides_everything_gives_zeros(impl: Impl) -> None:
    inputs = make(Case("late", (4, 20), window=5), device(impl))
    inputs["query_positions"] += 1000
    assert (paged_decode(**inputs, impl=impl) == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_queries_may_be_strided_views(impl: Impl) -> None:
    inputs, exact, reference = expected(BY_NAME["pocket"], device(impl))
    query = inputs["query"]  # [sequences, heads, head_dim]
    flipped = query.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    fused = torch.cat([query, query.clone().fill_(torch.nan)], dim=1)[:, : query.shape[1]]
    for view in (flipped, fused):
        assert not view.is_contiguous()
        assert_close(paged_decode(**{**inputs, "query": view}, impl=impl), exact, reference)


@pytest.mark.gpu
@pytest.mark.parametrize(("kv_heads", "group"), [(8, 4), (4, 7)], ids=["llama8b", "qwen7b"])
@pytest.mark.parametrize("window", [None, 1024])
@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
def test_real_shapes_on_a_gpu(kv_heads: int, group: int, window: int | None, fp8: bool) -> None:
    """Against the reference in float32, which the other tests hold to the oracle."""
    sizes: dict[str, Any] = {"kv_heads": kv_heads, "group": group, "head_dim": 128, "fp8": fp8}
    case = Case("real", (2500, 5000, 17), dtype=torch.bfloat16, window=window, **sizes)
    inputs = make(case, "cuda")
    wide: dict[str, Any] = {
        name: value.float() if isinstance(value, Tensor) and value.dtype is case.dtype else value
        for name, value in inputs.items()
    }
    exact = paged_decode(**wide, impl=Impl.REFERENCE).cpu().double()
    reference = paged_decode(**inputs, impl=Impl.REFERENCE).cpu()
    assert_close(paged_decode(**inputs, impl=Impl.TRITON), exact, reference)


def test_no_sequences_give_no_rows() -> None:
    inputs, _, _ = expected(BY_NAME["pocket"], "cpu")
    empty = {name: inputs[name][:0] for name in ("query", "block_tables", "lengths")}
    for impl in (Impl.REFERENCE, Impl.NUMBA):
        assert paged_decode(**{**inputs, **empty}, impl=impl).shape == (0, 4, 32)


def test_splits_depend_on_the_table_alone_and_are_bounded() -> None:
    kernel = pytest.importorskip("kernels.paged_decode.kernel")
    assert [kernel.num_splits(blocks, 16) for blocks in (0, 1, 32, 33, 1024, 1025)] == [
        1,
        1,
        1,
        2,
        32,
        17,
    ]
    for blocks in range(1, 10_000, 7):
        splits, tokens = kernel.num_splits(blocks, 16), kernel.split_tokens(blocks, 16)
        assert 1 <= splits <= kernel.MAX_SPLITS
        assert splits * tokens >= blocks * 16


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "query dtype": ({"query": lambda t: t.double()}, TypeError, "float64"),
    "keys dtype": ({"keys": lambda t: t.int()}, TypeError, "int32"),
    "values dtype": ({"values": lambda t: t.half()}, TypeError, "float16"),
    "head_dim": ({"query": lambda t: t[..., :31]}, ValueError, r"\(6, 4, 31\)"),
    "heads": ({"query": lambda t: t[:, :3]}, ValueError, "3 heads, keys 2"),
    "keys rank": ({"keys": lambda t: t[0]}, ValueError, r"\(2, 16, 32\)"),
    "values shape": ({"values": lambda t: t[1:]}, ValueError, "values have shape"),
    "strided pool": ({"keys": lambda t: t.mT.contiguous().mT}, ValueError, "contiguous"),
    "table dtype": ({"block_tables": lambda t: t.long()}, TypeError, "int64"),
    "table rows": ({"block_tables": lambda t: t[1:]}, ValueError, r"\(6,\).*\(5,\)"),
    "rows": ({"query": lambda t: t[1:]}, ValueError, "query has 5 rows, lengths 6"),
    "table columns": (
        {"block_tables": lambda t: t.t().contiguous().t()},
        ValueError,
        r"strides \(1, 6\)",
    ),
    "lengths": ({"lengths": lambda t: t[1:]}, ValueError, r"lengths has shape \(5,\)"),
    "lengths dtype": ({"lengths": lambda t: t.long()}, TypeError, "int64"),
    "device": ({"lengths": lambda t: t.to("meta")}, ValueError, "meta"),
    "window": ({"window": lambda _: 0}, ValueError, "window is 0"),
    "no positions": ({"window": lambda _: 4}, ValueError, "slot_positions is None"),
    "scales of floats": ({"key_scales": lambda _: torch.ones(2)}, ValueError, "takes None"),
    "no scales": (
        {"keys": lambda t: t.to(FP8), "values": lambda t: t.to(FP8)},
        ValueError,
        "key_scales is None with keys of torch.float8_e4m3fn",
    ),
    "impl": ({"impl": lambda _: "cutlass"}, ValueError, "'cutlass'.*triton, numba, reference"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    changes, error, message = BAD[name]
    inputs = {**make(BY_NAME["pocket"]), "impl": None}
    for field, change in changes.items():
        inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        paged_decode(**inputs)


def test_a_window_needs_query_positions_too() -> None:
    inputs = make(BY_NAME["window"])
    with pytest.raises(ValueError, match="window is 24 but query_positions is None"):
        paged_decode(**{**inputs, "query_positions": None})


def test_the_reference_checks_contents() -> None:
    inputs = make(BY_NAME["pocket"])
    with pytest.raises(ValueError, match="length 5000"):
        paged_decode(**{**inputs, "lengths": inputs["lengths"] + 4999}, impl="reference")
    with pytest.raises(ValueError, match=r"block ids \[-1\]"):
        paged_decode(**{**inputs, "block_tables": inputs["block_tables"] * 0 - 1}, impl="reference")
