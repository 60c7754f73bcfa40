"""window_attention: every implementation against plain loops, and what must not be used."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.impl import Impl
from kernels.window_attention import window_attention
from kernels.window_attention.cases import CASES, Case, make
from tests.kernels import scoring_oracle
from tests.kernels.implementations import (
    IMPLS,
    assert_close,
    device,
    moved_to,
    skip_unsupported,
)
from tests.thorough import some

BY_NAME = {case.name: case for case in CASES}
PER_SEQUENCE = ("queries", "query_positions", "keys", "positions")


@cache
def expected(case: Case, where: str) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The inputs on that device, and on the CPU the exact answer and the reference's."""
    inputs = make(case, where)
    on_cpu = moved_to(inputs, "cpu")
    reference = window_attention(**on_cpu, impl=Impl.REFERENCE)
    return inputs, scoring_oracle.attention(on_cpu), reference


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_oracle_and_uses_no_poison(case: Case, impl: Impl) -> None:
    skip_unsupported(impl, case.dtype)
    inputs, exact, reference = expected(case, device(impl))
    result = window_attention(**inputs, impl=impl)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert_close(result, exact, reference)


def test_the_poison_is_there() -> None:
    inputs = make(BY_NAME["keys-newer-than-queries"])
    assert inputs["queries"].isnan().any()
    assert inputs["keys"].isnan().any()
    assert not inputs["keys"].is_contiguous()
    assert not inputs["queries"].is_contiguous()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("over_heads", ["mean", "strongest"])
@pytest.mark.parametrize("over_queries", ["mean", "max", "sum"])
def test_every_pair_of_reductions(over_heads: str, over_queries: str, impl: Impl) -> None:
    case = replace(
        BY_NAME["group5"],
        name=f"{over_heads}-{over_queries}",
        missing=(0, 2),
        over_heads=over_heads,
        over_queries=over_queries,
    )
    inputs, exact, reference = expected(case, device(impl))
    assert_close(window_attention(**inputs, impl=impl), exact, reference)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", some(["r_kv", "snapkv", "accumulated", "group1-wide"], 2))
def test_a_row_alone_equals_the_row_in_a_batch(name: str, impl: Impl) -> None:
    inputs, _, _ = expected(BY_NAME[name], device(impl))
    together = window_attention(**inputs, impl=impl)
    for index in range(len(together)):
        alone = {name: inputs[name][index : index + 1] for name in PER_SEQUENCE}
        assert torch.equal(window_attention(**{**inputs, **alone}, impl=impl)[0], together[index])


@pytest.mark.parametrize("impl", IMPLS)
def test_mass_is_handed_out_by_the_queries_that_are_left(impl: Impl) -> None:
    """Two halves of the queries add up to all of them, one for each query."""
    batch, _, _ = expected(BY_NAME["accumulated"], device(impl))
    inputs = {**batch, **{name: batch[name][:1] for name in PER_SEQUENCE}}
    older, newer = inputs["query_positions"].clone(), inputs["query_positions"].clone()
    older[:, 20:] = -1
    newer[:, :20] = -1
    whole = window_attention(**inputs, impl=impl)
    halves = [
        window_attention(**{**inputs, "query_positions": half}, impl=impl)
        for half in (older, newer)
    ]
    torch.testing.assert_close(halves[0] + halves[1], whole)
    present = (inputs["query_positions"] >= 0).sum(dim=1).float()
    torch.testing.assert_close(whole.sum(-1), present[:, None, None].expand(whole.shape[:3]))


@pytest.mark.parametrize("impl", IMPLS)
def test_no_query_gives_zeros(impl: Impl) -> None:
    inputs = make(BY_NAME["snapkv"], device(impl))
    none = {
        "queries": inputs["queries"][:, :, :, :0],
        "query_positions": inputs["query_positions"][:, :0],
    }
    assert not window_attention(**{**inputs, **none}, impl=impl).any()
    assert window_attention(**inputs, impl=impl)[0].all(), "of a sequence that has them"
    assert not window_attention(**inputs, impl=impl)[2].any(), "nor of one that lacks them all"


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["queries", "keys"])
def test_huge_logits_stay_finite(name: str, impl: Impl) -> None:
    inputs = make(Case("huge", (0, 0)), device(impl))
    result = window_attention(**{**inputs, name: inputs[name] * 1e18}, impl=impl)
    assert result.isfinite().all()
    torch.testing.assert_close(result.sum(-1), torch.ones_like(result.sum(-1)))


@pytest.mark.parametrize("impl", [Impl.REFERENCE, Impl.NUMBA])
def test_no_sequences_give_no_rows(impl: Impl) -> None:
    inputs = make(BY_NAME["snapkv"])
    none = {name: inputs[name][:0] for name in PER_SEQUENCE}
    assert window_attention(**{**inputs, **none}, impl=impl).shape == (0, 2, 2, 33)


@pytest.mark.gpu
@pytest.mark.parametrize(("kv_heads", "group"), [(8, 4), (4, 7)], ids=["llama8b", "qwen7b"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_shapes_on_a_gpu(kv_heads: int, group: int, dtype: torch.dtype) -> None:
    """Against the reference, which the other tests hold to the oracle."""
    sizes: dict[str, Any] = {"kv_heads": kv_heads, "group": group, "head_dim": 128}
    inputs = make(Case("real", (0, 5), tokens=2500, dtype=dtype, **sizes), "cuda")
    expected = window_attention(**inputs, impl=Impl.REFERENCE)
    torch.testing.assert_close(window_attention(**inputs), expected, atol=1e-6, rtol=1e-4)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "keys dtype": ({"keys": lambda t: t.int()}, TypeError, "keys is torch.int32.*float32"),
    "keys rank": ({"keys": lambda t: t[0]}, ValueError, r"keys has shape \(2, 2, 33, 32\)"),
    "queries dtype": ({"queries": lambda t: t.half()}, TypeError, "queries is torch.float16"),
    "head_dim": ({"queries": lambda t: t[..., :31]}, ValueError, r"= \[3, 2, any, 16, 32\]"),
    "heads": ({"queries": lambda t: t[:, :, :3]}, ValueError, "queries have 3 heads"),
    "recent": ({"query_positions": lambda t: t[:, 1:]}, ValueError, r"\(3, 2, 4, 16, 32\)"),
    "query positions": ({"query_positions": lambda t: t[1:]}, ValueError, r"\[3, 16\]"),
    "int64": ({"query_positions": lambda t: t.long()}, TypeError, "int64; allowed: int32"),
    "positions": ({"positions": lambda t: t[..., :9]}, ValueError, r"\(3, 2, 2, 9\).*tokens\]"),
    "no tokens": ({"keys": lambda t: t[:, :, :, :0]}, ValueError, "at least one token"),
    "device": ({"positions": lambda t: t.to("meta")}, ValueError, "meta"),
    "over queries": ({"over_queries": lambda _: "median"}, ValueError, "'median'.*'max'"),
    "over heads": ({"over_heads": lambda _: "max"}, ValueError, "'max'.*'strongest'"),
    "impl": ({"impl": lambda _: "cutlass"}, ValueError, "'cutlass'.*triton, numba, reference"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    changes, error, message = BAD[name]
    inputs = {**make(BY_NAME["snapkv"]), "impl": None}
    for field, change in changes.items():
        inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        window_attention(**inputs)


def test_the_reference_checks_the_order() -> None:
    inputs = make(BY_NAME["snapkv"])
    with pytest.raises(ValueError, match="ascend strictly"):
        window_attention(**{**inputs, "positions": inputs["positions"].flip(-1)}, impl="reference")
