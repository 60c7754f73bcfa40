"""paged_prefill: every implementation against the dense oracle, and what must not be read."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.impl import Impl
from kernels.paged_decode import paged_decode
from kernels.paged_prefill import paged_prefill
from kernels.paged_prefill.cases import CASES, Case, make
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
    return inputs, oracle.attention(on_cpu), paged_prefill(**on_cpu, impl=Impl.REFERENCE)


def sequence(inputs: dict[str, Any], index: int) -> dict[str, Any]:
    """The arguments of one sequence alone."""
    first, last = inputs["query_starts"][index : index + 2].tolist()
    alone = dict(inputs)
    alone["query"] = inputs["query"][first:last]
    alone["block_tables"] = inputs["block_tables"][index : index + 1]
    alone["lengths"] = inputs["lengths"][index : index + 1]
    alone["query_starts"] = inputs["query_starts"].new_tensor([0, last - first])
    if inputs["query_positions"] is not None:
        alone["query_positions"] = inputs["query_positions"][first:last]
    return alone


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_oracle_and_reads_no_poison(case: Case, impl: Impl) -> None:
    skip_unsupported(impl, case.dtype)
    inputs, exact, reference = expected(case, device(impl))
    result = paged_prefill(**inputs, impl=impl)
    assert result.dtype == case.dtype
    assert result.is_contiguous()
    assert_close(result, exact, reference)
    assert (result[int(inputs["query_starts"][-1]) :] == 0).all(), "padding rows are zeros"


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["chunks", "window", "group7-dim128", "fp8"])
def test_a_sequence_alone_equals_the_sequence_in_a_batch(name: str, impl: Impl) -> None:
    skip_unsupported(impl, BY_NAME[name].dtype)
    inputs, _, _ = expected(BY_NAME[name], device(impl))
    together = paged_prefill(**inputs, impl=impl)
    starts = inputs["query_starts"].tolist()
    for index in range(len(starts) - 1):
        alone = paged_prefill(**sequence(inputs, index), impl=impl)
        assert torch.equal(alone, together[starts[index] : starts[index + 1]])


@pytest.mark.parametrize("impl", [impl for impl in IMPLS if impl is not Impl.REFERENCE])
@pytest.mark.parametrize("name", ["window", "whole-prompts"])
def test_a_row_does_not_depend_on_the_chunk_it_comes_in(name: str, impl: Impl) -> None:
    inputs, _, _ = expected(BY_NAME[name], device(impl))
    together = paged_prefill(**inputs, impl=impl)
    newest = inputs["query_starts"][1:].long() - 1
    sequences = len(newest)
    alone = {**inputs, "query": inputs["query"][newest]}
    alone["query_starts"] = torch.arange(sequences + 1, dtype=torch.int32, device=newest.device)
    if inputs["query_positions"] is not None:
        alone["query_positions"] = inputs["query_positions"][newest]
    assert torch.equal(paged_prefill(**alone, impl=impl), together[newest])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["chunks", "window"])
def test_chunks_of_one_token_agree_with_decode(name: str, impl: Impl) -> None:
    inputs, _, _ = expected(BY_NAME[name], device(impl))
    newest = inputs["query_starts"][1:].long() - 1
    common = {key: value for key, value in inputs.items() if key != "query_starts"}
    common["query"] = inputs["query"][newest]
    if inputs["query_positions"] is not None:
        common["query_positions"] = inputs["query_positions"][newest]
    together = paged_prefill(**inputs, impl=impl)[newest]
    torch.testing.assert_close(paged_decode(**common, impl=impl), together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
def test_unneeded_table_entries_are_not_read(impl: Impl) -> None:
    inputs, exact, reference = expected(BY_NAME["empty-chunk"], device(impl))
    skip_unsupported(impl, inputs["keys"].dtype)
    tables = inputs["block_tables"].clone()
    tables[tables == 0] = 2**30
    assert_close(paged_prefill(**{**inputs, "block_tables": tables}, impl=impl), exact, reference)


@pytest.mark.parametrize("impl", IMPLS)
def test_queries_may_be_strided_views(impl: Impl) -> None:
    inputs, exact, reference = expected(BY_NAME["chunks"], device(impl))
    query = inputs["query"]  # [tokens, heads, head_dim]
    flipped = query.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    transposed = query.transpose(0, 1).contiguous().transpose(0, 1)
    for view in (flipped, transposed):
        assert not view.is_contiguous()
        assert_close(paged_prefill(**{**inputs, "query": view}, impl=impl), exact, reference)


@pytest.mark.gpu
@pytest.mark.parametrize(("kv_heads", "group"), [(8, 4), (4, 7)], ids=["llama8b", "qwen7b"])
@pytest.mark.parametrize("window", [None, 1024])
@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
def test_real_shapes_on_a_gpu(kv_heads: int, group: int, window: int | None, fp8: bool) -> None:
    """Against the reference in float32, which the other tests hold to the oracle."""
    sizes: dict[str, Any] = {"kv_heads": kv_heads, "group": group, "head_dim": 128, "fp8": fp8}
    case = Case(
        "real", (2500, 5000, 17), chunks=(200, 33, 1), dtype=torch.bfloat16, window=window, **sizes
    )
    inputs = make(case, "cuda")
    wide: dict[str, Any] = {
        name: value.float() if isinstance(value, Tensor) and value.dtype is case.dtype else value
        for name, value in inputs.items()
    }
    exact = paged_prefill(**wide, impl=Impl.REFERENCE).cpu().double()
    reference = paged_prefill(**inputs, impl=Impl.REFERENCE).cpu()
    assert_close(paged_prefill(**inputs, impl=Impl.TRITON), exact, reference)


def test_no_tokens_give_no_rows() -> None:
    inputs, _, _ = expected(BY_NAME["chunks"], "cpu")
    starts = torch.zeros_like(inputs["query_starts"])
    for impl in (Impl.REFERENCE, Impl.NUMBA):
        empty = {**inputs, "query": inputs["query"][:0], "query_starts": starts}
        assert paged_prefill(**empty, impl=impl).shape == (0, 4, 32)


BAD: dict[str, tuple[str, Any, type[Exception], str]] = {
    "query dtype": ("query", lambda t: t.half(), TypeError, "float16"),
    "heads": ("query", lambda t: t[:, :3], ValueError, "3 heads, keys 2"),
    "starts": (
        "query_starts",
        lambda t: t[1:],
        ValueError,
        r"query_starts has shape \(3,\).*\(4,\)",
    ),
    "starts dtype": ("query_starts", lambda t: t.long(), TypeError, "int64"),
    "lengths": ("lengths", lambda t: t[1:], ValueError, r"lengths has shape \(2,\)"),
    "window": ("window", lambda _: -3, ValueError, "window is -3"),
    "positions": ("query_positions", lambda t: t[1:], ValueError, "query_positions has shape"),
    "slots": ("slot_positions", lambda t: t[1:], ValueError, "slot_positions has shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    field, change, error, message = BAD[name]
    inputs = make(BY_NAME["window"])
    inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        paged_prefill(**inputs)


def test_the_reference_checks_contents() -> None:
    inputs = make(BY_NAME["window"])
    starts = inputs["query_starts"].flip(0).contiguous()
    with pytest.raises(ValueError, match="expected to ascend from 0"):
        paged_prefill(**{**inputs, "query_starts": starts}, impl="reference")
    with pytest.raises(ValueError, match="sequence 0 holds 13 entries but has 20 queries"):
        paged_prefill(**{**inputs, "lengths": inputs["lengths"] - 50}, impl="reference")
