"""key_redundancy: every implementation against plain loops."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.impl import Impl
from kernels.key_redundancy import key_redundancy
from kernels.key_redundancy.cases import CASES, Case, make
from tests.kernels import scoring_oracle
from tests.kernels.implementations import (
    IMPLS,
    assert_close,
    device,
    moved_to,
    skip_unsupported,
)

BY_NAME = {case.name: case for case in CASES}
EVERY_FORM = pytest.mark.parametrize("excused_above", [None, 0.5], ids=["nearest", "mean"])


@cache
def expected(case: Case, where: str) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The inputs on that device, and on the CPU the exact answer and the reference's."""
    inputs = make(case, where)
    on_cpu = moved_to(inputs, "cpu")
    reference = key_redundancy(**on_cpu, impl=Impl.REFERENCE)
    return inputs, scoring_oracle.redundancy(on_cpu), reference


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_oracle_and_uses_no_poison(case: Case, impl: Impl) -> None:
    skip_unsupported(impl, case.dtype)
    inputs, exact, reference = expected(case, device(impl))
    assert not inputs["keys"].is_contiguous() or case.caches == 1
    result = key_redundancy(**inputs, impl=impl)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert_close(result, exact, reference)


@pytest.mark.parametrize("case", [c for c in CASES if c.excused_above is not None], ids=str)
def test_no_case_is_decided_by_rounding(case: Case) -> None:
    """Else implementations might differ about who is excused."""
    assert case.excused_above is not None
    units = torch.nn.functional.normalize(make(case)["keys"].double(), dim=-1)
    margin = (units @ units.mT - case.excused_above).abs()
    margin.diagonal(dim1=1, dim2=2).fill_(1)
    assert margin.min() > 1e-6


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["nearest", "mean"])
def test_a_cache_alone_equals_the_cache_in_a_batch(name: str, impl: Impl) -> None:
    inputs, _, _ = expected(BY_NAME[name], device(impl))
    together = key_redundancy(**inputs, impl=impl)
    for index in range(len(together)):
        alone = key_redundancy(**{**inputs, "keys": inputs["keys"][index : index + 1]}, impl=impl)
        assert torch.equal(alone[0], together[index])


@pytest.mark.parametrize("impl", IMPLS)
@EVERY_FORM
def test_lengths_do_not_count(excused_above: float | None, impl: Impl) -> None:
    """Powers of two scale floats exactly; only the products' last digits may differ."""
    keys = make(BY_NAME["nearest"], device(impl))["keys"][:1]
    scaled = keys * torch.tensor([2.0**40, 1.0, 2.0**-30], device=keys.device).repeat(33)[:97, None]
    plain = key_redundancy(keys, excused_above=excused_above, impl=impl)
    again = key_redundancy(scaled, excused_above=excused_above, impl=impl)
    torch.testing.assert_close(again, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("impl", IMPLS)
@EVERY_FORM
def test_zero_keys_resemble_nothing(excused_above: float | None, impl: Impl) -> None:
    keys = make(BY_NAME["nearest"], device(impl))["keys"][:1].clone()
    keys[:, ::3] = 0
    result = key_redundancy(keys, excused_above=excused_above, impl=impl)
    assert (result[:, ::3] == 0).all()
    assert result.isfinite().all()
    tiny = key_redundancy(keys * 1e-30, excused_above=excused_above, impl=impl)
    assert (tiny.abs() < 1e-20).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_copies_and_opposites(impl: Impl) -> None:
    key = torch.tensor([3.0, 4.0], device=device(impl))
    keys = torch.stack([key, -key, key, -2 * key])[None]
    nearest = key_redundancy(keys, impl=impl)[0].tolist()
    assert nearest == pytest.approx([1.0, 1.0, 0.0, 0.0])
    # 0 excuses 2 and 2 excuses 0; 1 and 3 likewise: two opposites are left to each
    mean = key_redundancy(keys, excused_above=0.5, impl=impl)[0].tolist()
    assert mean == pytest.approx([-0.5] * 4)


@pytest.mark.parametrize("impl", [Impl.REFERENCE, Impl.NUMBA])
def test_no_caches_give_no_rows(impl: Impl) -> None:
    assert key_redundancy(make(BY_NAME["mean"])["keys"][:0], impl=impl).shape == (0, 97)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@EVERY_FORM
def test_real_shapes_on_a_gpu(excused_above: float | None, dtype: torch.dtype) -> None:
    """Against the reference, which the other tests hold to the oracle."""
    case = Case("real", 64, 2500, head_dim=128, excused_above=excused_above, dtype=dtype)
    inputs = make(case, "cuda")
    expected = key_redundancy(**inputs, impl=Impl.REFERENCE)
    torch.testing.assert_close(key_redundancy(**inputs), expected, atol=1e-4, rtol=1e-4)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dtype": ({"keys": lambda t: t.int()}, TypeError, "keys is torch.int32; allowed: float32"),
    "rank": ({"keys": lambda t: t[0]}, ValueError, r"\(97, 32\); expected \[caches, tokens"),
    "tokens": ({"keys": lambda t: t[:, :0]}, ValueError, "may not be 0"),
    "negative": ({"excused_above": lambda _: -0.1}, ValueError, "excused_above is -0.1"),
    "not a number": ({"excused_above": lambda _: float("nan")}, ValueError, "is nan; allowed: 0"),
    "impl": ({"impl": lambda _: "cutlass"}, ValueError, "'cutlass'.*triton, numba, reference"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    changes, error, message = BAD[name]
    inputs = {**make(BY_NAME["mean"]), "impl": None}
    for field, change in changes.items():
        inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        key_redundancy(**inputs)
