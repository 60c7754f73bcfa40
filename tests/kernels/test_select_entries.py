"""select_entries: every implementation against a sort of each row in Python."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.impl import Impl
from kernels.select_entries import select_entries
from kernels.select_entries.cases import CASES, Case, make
from tests.kernels.implementations import IMPLS, device

BY_NAME = {case.name: case for case in CASES}
LARGEST = torch.finfo(torch.float32).max


def row_by_sort(scores: list[float], count: int, pinned: int, recent: int) -> list[int]:
    """The rule for one cache: (stays, score, slot), highest first."""

    def key(slot: int) -> tuple[bool, float, int]:
        score = scores[slot]
        score = -LARGEST if score != score else max(-LARGEST, min(LARGEST, score))
        return slot < pinned or slot >= len(scores) - recent, score, slot

    return sorted(sorted(range(len(scores)), key=key)[len(scores) - count :])


def expected(inputs: dict[str, Any]) -> Tensor:
    rows = [
        [[row_by_sort(row, inputs["count"], pinned, recent) for row in layer] for layer in sequence]
        for sequence, pinned, recent in zip(
            inputs["scores"].tolist(),
            inputs["pinned"].tolist(),
            inputs["recent"].tolist(),
            strict=True,
        )
    ]
    return torch.tensor(rows, dtype=torch.int64)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_keeps_what_a_sort_puts_first(case: Case, impl: Impl) -> None:
    inputs = make(case, device(impl))
    kept = select_entries(**inputs, impl=impl)
    assert kept.is_contiguous()
    assert torch.equal(kept.cpu(), expected(inputs))


@pytest.mark.parametrize("impl", [Impl.REFERENCE, Impl.NUMBA])
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_row(impl: Impl, data: st.DataObject) -> None:
    numbers = st.one_of(st.sampled_from([0.0, -0.0, 1.0]), st.floats(width=32))
    scores = data.draw(st.lists(numbers, min_size=1, max_size=40))
    count = data.draw(st.integers(0, len(scores)))
    pinned = data.draw(st.integers(0, count))
    recent = data.draw(st.integers(0, count - pinned))
    kept = select_entries(
        torch.tensor(scores).view(1, 1, 1, -1),
        count,
        torch.tensor([pinned]),
        torch.tensor([recent]),
        impl=impl,
    )
    assert kept.flatten().tolist() == row_by_sort(scores, count, pinned, recent)


@pytest.mark.parametrize("impl", IMPLS)
def test_scores_may_be_broadcast(impl: Impl) -> None:
    """As policies make them that rank a whole layer, or all layers, alike."""
    inputs = make(BY_NAME["pocket"], device(impl))
    inputs["scores"] = inputs["scores"][:, :, :1].expand(-1, -1, 2, -1)
    assert torch.equal(select_entries(**inputs, impl=impl).cpu(), expected(inputs))


@pytest.mark.parametrize("impl", [Impl.REFERENCE, Impl.NUMBA])
def test_no_sequences_give_no_rows(impl: Impl) -> None:
    inputs = make(BY_NAME["pocket"])
    none = {name: inputs[name][:0] for name in ("scores", "pinned", "recent")}
    assert select_entries(**{**inputs, **none}, impl=impl).shape == (0, 2, 2, 112)


BAD: dict[str, tuple[str, Any, type[Exception], str]] = {
    "dtype": ("scores", lambda t: t.double(), TypeError, "scores is torch.float64"),
    "rank": ("scores", lambda t: t[0], ValueError, r"\(2, 2, 128\); expected \[sequences"),
    "pinned": ("pinned", lambda t: t[1:], ValueError, r"pinned has shape \(2,\)"),
    "recent": ("recent", lambda t: t.int(), TypeError, "recent is torch.int32; allowed: int64"),
    "negative": ("count", lambda _: -1, ValueError, "count is -1; allowed: 0 to 128"),
    "too many": ("count", lambda _: 129, ValueError, "count is 129"),
    "device": ("recent", lambda t: t.to("meta"), ValueError, "recent is on meta"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    field, change, error, message = BAD[name]
    inputs = make(BY_NAME["pocket"])
    inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        select_entries(**inputs)


def test_the_reference_refuses_to_keep_more_than_count() -> None:
    inputs = make(BY_NAME["pocket"])
    with pytest.raises(ValueError, match=r"pinned \[24, 3, 0\].*more than the 30"):
        select_entries(**{**inputs, "count": 30}, impl="reference")
