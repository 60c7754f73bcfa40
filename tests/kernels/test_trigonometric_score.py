"""trigonometric_score: every implementation against the formula as printed, on keys turned back."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.impl import Impl
from kernels.trigonometric_score import OFFSETS, trigonometric_score
from kernels.trigonometric_score.cases import CASES, Case, draw, make, rotated
from tests.kernels import scoring_oracle
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
    inputs, positions = draw(case, where)
    on_cpu = moved_to(inputs, "cpu")
    reference = trigonometric_score(**on_cpu, impl=Impl.REFERENCE)
    return inputs, scoring_oracle.trigonometric(on_cpu, positions), reference


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_formula_and_uses_no_poison(case: Case, impl: Impl) -> None:
    skip_unsupported(impl, case.dtype)
    inputs, exact, reference = expected(case, device(impl))
    result = trigonometric_score(**inputs, impl=impl)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert_close(result, exact, reference)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_itself_is_exact_to_float32(case: Case) -> None:
    """assert_close measures by the reference: far positions must not cost it digits."""
    _, exact, reference = expected(case, "cpu")
    torch.testing.assert_close(reference.double(), exact, atol=3e-5, rtol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_queries_that_are_all_alike_score_their_mean_logit(impl: Impl) -> None:
    """Their rotation at each offset, by the halves' own formula, times the keys as cached."""
    inputs = make(BY_NAME["pocket"], device(impl))
    first, second = inputs["query_mean"].chunk(2, dim=-1)
    inputs["query_length"] = (first**2 + second**2).sqrt()
    ahead = inputs["next_positions"][:, None] + torch.tensor(OFFSETS, device=device(impl))
    angles = ahead[:, :, None, None, None] * inputs["frequencies"][:, None]
    queries = rotated(inputs["query_mean"].double(), angles)  # [sequences, offsets, layers, ..]
    queries = queries.mean(dim=1).unflatten(2, (2, 2))
    logits = (queries @ inputs["keys"].double().mT).flatten(2, 3)
    result = trigonometric_score(**inputs, impl=impl)
    torch.testing.assert_close(result.double(), logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["pocket", "far", "three-kv-heads-dim6"])
def test_a_row_alone_equals_the_row_in_a_batch(name: str, impl: Impl) -> None:
    inputs, _, _ = expected(BY_NAME[name], device(impl))
    together = trigonometric_score(**inputs, impl=impl)
    for index in range(len(together)):
        own = {key: inputs[key][index : index + 1] for key in ("keys", "next_positions")}
        assert torch.equal(trigonometric_score(**{**inputs, **own}, impl=impl)[0], together[index])


@pytest.mark.parametrize("impl", IMPLS)
def test_positions_may_be_int32(impl: Impl) -> None:
    inputs = make(BY_NAME["far"], device(impl))
    short = {**inputs, "next_positions": inputs["next_positions"].int()}
    assert torch.equal(
        trigonometric_score(**short, impl=impl), trigonometric_score(**inputs, impl=impl)
    )


@pytest.mark.parametrize("impl", [Impl.REFERENCE, Impl.NUMBA])
def test_no_sequences_give_no_rows(impl: Impl) -> None:
    inputs = make(BY_NAME["pocket"])
    none = {name: inputs[name][:0] for name in ("keys", "next_positions")}
    assert trigonometric_score(**{**inputs, **none}, impl=impl).shape == (0, 2, 4, 33)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_shapes_on_a_gpu(dtype: torch.dtype) -> None:
    """Against the reference, which the other tests hold to the formula."""
    case = Case("real", (9000,), tokens=2500, kv_heads=8, group=4, head_dim=128, dtype=dtype)
    inputs = make(case, "cuda")
    expected = trigonometric_score(**inputs, impl=Impl.REFERENCE)
    torch.testing.assert_close(trigonometric_score(**inputs), expected, atol=1e-3, rtol=1e-4)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "keys dtype": ({"keys": lambda t: t.int()}, TypeError, "keys is torch.int32"),
    "keys rank": ({"keys": lambda t: t[0]}, ValueError, r"\(2, 2, 33, 32\); expected"),
    "no tokens": ({"keys": lambda t: t[:, :, :, :0]}, ValueError, "at least one token"),
    "odd": ({"keys": lambda t: t[..., :31]}, ValueError, r"= \[2, any, 31\]"),
    "next": ({"next_positions": lambda t: t[1:]}, ValueError, r"\(2,\).*= \[3\]"),
    "next dtype": ({"next_positions": lambda t: t.float()}, TypeError, "int32, int64"),
    "heads": ({"query_mean": lambda t: t[:, :3]}, ValueError, "query_mean has 3 heads"),
    "mean": ({"query_mean": lambda t: t.double()}, TypeError, "query_mean is torch.float64"),
    "length": ({"query_length": lambda t: t[:, :2]}, ValueError, r"= \[2, 4, 16\]"),
    "frequencies": ({"frequencies": lambda t: t[0]}, ValueError, r"\(16,\).*= \[2, 16\]"),
    "float32": ({"frequencies": lambda t: t.float()}, TypeError, "allowed: float64"),
    "device": ({"frequencies": lambda t: t.to("meta")}, ValueError, "meta"),
    "impl": ({"impl": lambda _: "cutlass"}, ValueError, "'cutlass'.*triton, numba, reference"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    changes, error, message = BAD[name]
    inputs = {**make(BY_NAME["pocket"]), "impl": None}
    for field, change in changes.items():
        inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        trigonometric_score(**inputs)
