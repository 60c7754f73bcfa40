"""rms_norm: every implementation against a float64 oracle, transformers, and itself row by row."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from kernels.impl import Impl
from kernels.rms_norm import rms_norm
from kernels.rms_norm.cases import CASES, Case, make
from tests.kernels.implementations import IMPLS, assert_close, device, moved_to, skip_unsupported
from tests.kernels.oracle import same_bits

BY_NAME = {case.name: case for case in CASES}


def exact(inputs: dict[str, Any]) -> Tensor:
    """float64 [tokens, width], row by row; the residual sum is rounded to the dtype, as stored."""
    rows = inputs["hidden"].double()
    if inputs["residual"] is not None:
        rows = (rows + inputs["residual"].double()).to(inputs["hidden"].dtype).double()
    weight, out = inputs["weight"].double().numpy(), np.zeros(rows.shape)
    for token, row in enumerate(rows.numpy()):
        out[token] = weight * row / np.sqrt(np.dot(row, row) / len(row) + inputs["eps"])
    return torch.from_numpy(out)


def changed(inputs: dict[str, Any], impl: Impl) -> tuple[Tensor, Tensor | None]:
    """The result and the residual afterwards, on the CPU; `inputs` stay as they are."""
    mine = moved_to(inputs, device(impl))
    result = rms_norm(**mine, impl=impl)
    assert same_bits(mine["hidden"].cpu(), inputs["hidden"])
    return result.cpu(), None if mine["residual"] is None else mine["residual"].cpu()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_oracle(case: Case, impl: Impl) -> None:
    skip_unsupported(impl, case.dtype)
    inputs = make(case)
    reference, _ = changed(inputs, Impl.REFERENCE)
    result, residual = changed(inputs, impl)
    assert result.dtype is case.dtype
    assert result.is_contiguous()
    assert_close(result, exact(inputs), reference)
    if residual is not None:
        assert same_bits(residual, inputs["residual"] + inputs["hidden"])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["odd-residual", "bf16-residual", "shared"])
def test_strided_rows_leave_what_lies_between_them(name: str, impl: Impl) -> None:
    case = BY_NAME[name]
    skip_unsupported(impl, case.dtype)
    inputs = make(case)
    wide = torch.full((case.tokens, case.width + 9), torch.nan, dtype=case.dtype)
    wide[:, 4:-5] = inputs["residual"]
    wide = wide.to(device(impl))
    mine = {**moved_to(inputs, device(impl)), "residual": wide[:, 4:-5]}
    result = rms_norm(**mine, impl=impl)
    assert same_bits(result.cpu(), changed(inputs, impl)[0])
    assert wide[:, :4].isnan().all()
    assert wide[:, -5:].isnan().all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["pocket", "odd", "bf16-residual", "shared"])
def test_a_row_alone_equals_the_row_in_a_batch(name: str, impl: Impl) -> None:
    skip_unsupported(impl, BY_NAME[name].dtype)
    inputs = make(BY_NAME[name])
    batch, _ = changed(inputs, impl)
    for token in (0, len(batch) // 2, len(batch) - 1):
        alone = dict(inputs)
        for field in ("hidden", "residual"):
            if inputs[field] is not None:
                alone[field] = inputs[field][token : token + 1]
        assert same_bits(changed(alone, impl)[0][0], batch[token])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_reference_is_what_transformers_computes(dtype: torch.dtype) -> None:
    inputs = make(Case("any", 33, 160, dtype))
    module = LlamaRMSNorm(160, inputs["eps"]).to(dtype)
    module.weight.data = inputs["weight"]
    with torch.no_grad():
        expected = module(inputs["hidden"])
    assert same_bits(rms_norm(**inputs, impl="reference"), expected)


def test_a_parameter_is_taken_as_weight() -> None:
    inputs = make(BY_NAME["one"])
    expected = rms_norm(**inputs)
    inputs["weight"] = torch.nn.Parameter(inputs["weight"])
    assert same_bits(rms_norm(**inputs), expected)


BAD: dict[str, tuple[str, Any, type[Exception], str]] = {
    "dtype": ("hidden", lambda t: t.double(), TypeError, "hidden is torch.float64; allowed"),
    "width": ("hidden", lambda t: t.repeat(1, 80), ValueError, r"\(5, 8240\).*width 1 to 8192"),
    "no tokens axis": ("hidden", lambda t: t[0], ValueError, r"expected \[tokens, width\]"),
    "columns apart": ("hidden", lambda t: t.T.contiguous().T, ValueError, "last stride 1"),
    "weight": ("weight", lambda t: t[1:], ValueError, r"\(102,\) and strides \(1,\)"),
    "weight dtype": ("weight", lambda t: t.half(), TypeError, "weight is torch.float16"),
    "residual": ("residual", lambda t: t[1:], ValueError, r"expected \(5, 103\)"),
    "device": ("residual", lambda t: t.to("meta"), ValueError, "residual is on meta"),
    "impl": ("impl", lambda _: "cuda", ValueError, "impl is 'cuda'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    field, change, error, message = BAD[name]
    inputs = {**make(Case("any", 5, 103, residual=True)), "impl": None}
    inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        rms_norm(**inputs)
