"""silu_mul: every implementation against a float64 oracle, torch's, and itself row by row."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.impl import Impl
from kernels.silu_mul import silu_mul
from kernels.silu_mul.cases import CASES, Case, make
from tests.kernels.implementations import IMPLS, assert_close, device, skip_unsupported
from tests.kernels.oracle import same_bits

BY_NAME = {case.name: case for case in CASES}


def exact(gate_up: Tensor) -> Tensor:
    """float64 [tokens, width]."""
    numbers = gate_up.double().numpy()
    width = numbers.shape[1] // 2
    gate, up = numbers[:, :width], numbers[:, width:]
    return torch.from_numpy(gate * up / (1 + np.exp(-gate)))


def computed(gate_up: Tensor, impl: Impl) -> Tensor:
    """The result on the CPU."""
    return silu_mul(gate_up.to(device(impl)), impl=impl).cpu()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_oracle(case: Case, impl: Impl) -> None:
    skip_unsupported(impl, case.dtype)
    gate_up = make(case)["gate_up"]
    result = computed(gate_up, impl)
    assert result.dtype is case.dtype
    assert result.is_contiguous()
    assert_close(result, exact(gate_up), computed(gate_up, Impl.REFERENCE))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["odd", "bf16-odd", "pieces", "shared"])
def test_a_row_alone_equals_the_row_in_a_batch(name: str, impl: Impl) -> None:
    skip_unsupported(impl, BY_NAME[name].dtype)
    gate_up = make(BY_NAME[name])["gate_up"]
    batch = computed(gate_up, impl)
    for token in (0, len(batch) // 2, len(batch) - 1):
        assert same_bits(computed(gate_up[token : token + 1], impl)[0], batch[token])


def test_cases_cover_strided_rows() -> None:
    assert not make(BY_NAME["odd"])["gate_up"].is_contiguous()


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_stays_in_its_place(impl: Impl) -> None:
    gate_up = make(BY_NAME["odd"])["gate_up"]
    gate_up[2, 5] = torch.nan
    gate_up[3, 131 + 7] = torch.nan
    assert computed(gate_up, impl).isnan().nonzero().tolist() == [[2, 5], [3, 7]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_reference_is_what_a_llama_mlp_computes(dtype: torch.dtype) -> None:
    gate_up = make(Case("any", 11, 77, dtype))["gate_up"]
    expected = torch.nn.functional.silu(gate_up[:, :77]) * gate_up[:, 77:]
    assert same_bits(computed(gate_up, Impl.REFERENCE), expected)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "dtype": (lambda t: t.double(), TypeError, "gate_up is torch.float64; allowed"),
    "odd": (lambda t: t[:, 1:], ValueError, r"\(5, 65\); expected \[tokens, 2 \* width\]"),
    "none": (lambda t: t[:, :0], ValueError, "width 1 or more"),
    "axes": (lambda t: t[None], ValueError, r"\(1, 5, 66\)"),
    "columns apart": (lambda t: t.T.contiguous().T, ValueError, "last stride 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    change, error, message = BAD[name]
    with pytest.raises(error, match=message):
        silu_mul(change(make(Case("any", 5, 33))["gate_up"]))


def test_an_unknown_implementation_is_refused() -> None:
    with pytest.raises(ValueError, match="impl is 'cuda'"):
        silu_mul(make(BY_NAME["one"])["gate_up"], impl="cuda")
