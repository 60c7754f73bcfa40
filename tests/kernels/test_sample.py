"""sample: every implementation against a sort of each row in float64, and the draws against the
probabilities."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.impl import Impl
from kernels.sample import sample
from kernels.sample.cases import BELOW_ONE, CASES, Case, Row, make
from tests.kernels.implementations import IMPLS, device, skip_unsupported

BY_NAME = {case.name: case for case in CASES}
SETTINGS = ("temperatures", "top_ks", "top_ps", "min_ps")
MARGIN = 1e-5  # what float32 sums of these sizes may be off by, of all the mass
NOT_FINITE = -1


def kept_by_sort(logits: np.ndarray, row: Row) -> tuple[np.ndarray, float]:
    """What each entry weighs after the filters, and how near rounding came to a different answer.

    Goes down the distinct logits, from the largest, and stops at the first that any filter drops.
    """
    scaled = (logits - logits.max()) / row.temperature
    weights = np.exp(np.where(scaled < -126 * math.log(2), -np.inf, scaled))
    levels = np.unique(logits)[::-1]
    k = min(row.top_k or len(logits), len(logits))
    floor = np.sort(logits)[-k]
    total = weights[logits >= floor].sum()
    kept, above, near = np.zeros(len(logits), bool), 0.0, 1.0
    for level in levels:
        here = logits == level
        ratio, share = weights[here][0], above / total
        if level < levels[0]:
            if row.top_p < 1 and ratio > 0:
                near = min(near, abs(share - row.top_p))
            if row.min_p > 0:
                near = min(near, abs(ratio - row.min_p))
            if level < floor or (row.top_p < 1 and share >= row.top_p) or ratio < row.min_p:
                break
        kept |= here
        above += weights[here].sum()
    return weights * kept, near


def rows_of(inputs: dict[str, Any]) -> list[tuple[np.ndarray, Row, float]]:
    """Each row's logits in float64, settings, and number."""
    logits = inputs["logits"].cpu().double().numpy()
    columns = zip(*(inputs[name].tolist() for name in SETTINGS), strict=True)
    rows = [Row(*values) for values in columns]
    return list(zip(logits, rows, inputs["numbers"].tolist(), strict=True))


def right(token: int, logits: np.ndarray, row: Row, number: float) -> bool:
    """Whether the token is the one asked for, or a neighbour that rounding cannot tell from it."""
    if not np.isfinite(logits.max()):
        return token == NOT_FINITE
    if row.temperature == 0:
        return token == int(np.argmax(logits))
    weights, _ = kept_by_sort(logits, row)
    mass = weights.cumsum() / weights.sum()
    before = mass[token] - weights[token] / weights.sum()
    return bool(weights[token] > 0 and before - MARGIN <= number <= mass[token] + MARGIN)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rounding_decides_nothing_in_the_cases(case: Case) -> None:
    rows = [entry for entry in rows_of(make(case)) if entry[1].temperature > 0]
    assert all(kept_by_sort(logits, row)[1] > MARGIN for logits, row, _ in rows)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_draws_what_a_sort_would(case: Case, impl: Impl) -> None:
    skip_unsupported(impl, case.dtype)
    inputs = make(case, device(impl))
    before = inputs["logits"].clone()
    tokens = sample(**inputs, impl=impl)
    assert tokens.dtype is torch.int64
    assert tokens.is_contiguous()
    assert torch.equal(inputs["logits"], before)
    drawn = zip(tokens.tolist(), rows_of(inputs), strict=True)
    assert [token for token, (logits, *rest) in drawn if not right(token, logits, *rest)] == []


def row_inputs(logits: list[float], row: Row, numbers: list[float], where: str) -> dict[str, Any]:
    """One row, drawn with each of the numbers."""
    columns = zip(SETTINGS, (row.temperature, row.top_k, row.top_p, row.min_p), strict=True)
    return {
        "logits": torch.tensor(logits, device=where).expand(len(numbers), -1),
        **{
            name: torch.full(
                (len(numbers),),
                value,
                dtype=torch.int32 if name == "top_ks" else torch.float32,
                device=where,
            )
            for name, value in columns
        },
        "numbers": torch.tensor(numbers, device=where),
    }


LOGITS = [1.5, -0.25, 3.0, 0.75, 3.0, -math.inf, 2.0, -4.0, 1.5, 0.0, -0.0, 2.5]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    "row", [Row(1.3), Row(0.8, top_p=0.81), Row(1.0, 4), Row(2.0, 9, 0.93, 0.2)], ids=str
)
def test_evenly_spaced_numbers_draw_each_entry_as_often_as_it_is_likely(
    row: Row, impl: Impl
) -> None:
    count = 16 if impl is Impl.TRITON else 4096  # the interpreter takes .3 s a row
    weights, near = kept_by_sort(np.array(LOGITS), row)
    assert near > MARGIN
    numbers = [(i + 0.5) / count for i in range(count)]
    tokens = sample(**row_inputs(LOGITS, row, numbers, device(impl)), impl=impl)
    drawn = tokens.bincount(minlength=len(LOGITS)).cpu().numpy()
    assert drawn.sum() == count
    assert (drawn[weights == 0] == 0).all()
    assert np.abs(drawn - count * weights / weights.sum()).max() <= 1 + count * MARGIN
    assert (tokens.diff() >= 0).all(), "in vocabulary order"


# Multiples of a sixteenth: many equals, and neighbours that differ enough to tell apart.
ENTRIES = st.one_of(st.just(-math.inf), st.integers(-80, 80).map(lambda n: n / 16))


@pytest.mark.parametrize("impl", [Impl.REFERENCE, Impl.NUMBA])
@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(ENTRIES, min_size=1, max_size=40).filter(lambda row: max(row) > -math.inf),
    temperature=st.sampled_from([0.01, 0.6, 1.0, 10.0]),
    top_k=st.integers(0, 45),
    top_p=st.sampled_from([1e-6, 0.3, 0.5, 0.9, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
)
def test_exactly_the_kept_entries_can_be_drawn(
    impl: Impl, logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    values = (np.float32(value).item() for value in (temperature, top_p, min_p))
    temperature, top_p, min_p = values
    row = Row(temperature, top_k, top_p, min_p)
    weights, near = kept_by_sort(np.array(logits), row)
    assume(near > MARGIN)
    shares = weights / weights.sum()
    middles = np.minimum(shares.cumsum() - shares / 2, BELOW_ONE)  # each entry's own number
    entries = [entry for entry, share in enumerate(shares) if share > 10 * MARGIN]
    numbers = [0.0, BELOW_ONE, *middles[entries].tolist()]
    lowest, highest, *tokens = sample(**row_inputs(logits, row, numbers, "cpu"), impl=impl).tolist()
    assert tokens == entries
    assert weights[lowest] > 0
    assert weights[highest] > 0


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["mixed", "many-tiles"])
def test_a_row_alone_is_the_row_in_a_batch_whatever_the_others_are(name: str, impl: Impl) -> None:
    inputs = make(BY_NAME[name], device(impl))
    picked = inputs["temperatures"].shape[0] - 1
    together = sample(**inputs, impl=impl)
    inputs["logits"][:picked] = torch.nan
    others = sample(**inputs, impl=impl)
    alone = sample(**{key: value[picked:] for key, value in inputs.items()}, impl=impl)
    assert together[picked] == others[picked] == alone[0]
    assert (others[:picked] == NOT_FINITE).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_rows_that_are_not_finite_draw_nothing(impl: Impl) -> None:
    nan = torch.tensor([0x7FC00000, -0x00400000], dtype=torch.int32).view(torch.float32)
    logits = torch.zeros(6, 37)
    logits[0, 36], logits[1, 0] = nan[0], nan[1]  # of either sign
    logits[2, 5] = torch.inf
    logits[3] = -torch.inf
    logits[4], logits[4, 30] = -torch.inf, torch.nan
    logits[5], logits[5, 30] = -torch.inf, -3e38
    for temperature in (0.0, 0.7):
        inputs = row_inputs([0.0] * 37, Row(temperature, 5, 0.9, 0.1), [0.5] * 6, device(impl))
        inputs["logits"] = logits.to(device(impl))
        assert sample(**inputs, impl=impl).tolist() == [NOT_FINITE] * 5 + [30]


@pytest.mark.parametrize("impl", IMPLS)
def test_numbers_at_both_ends_draw_the_first_and_the_last_kept(impl: Impl) -> None:
    logits = [-math.inf, -200.0, 0.0, 1.0, 0.5, -200.0, -math.inf]
    for row in (Row(), Row(1.0, 3, 0.99)):
        inputs = row_inputs(logits, row, [0.0, BELOW_ONE], device(impl))
        assert sample(**inputs, impl=impl).tolist() == [2, 4]


@pytest.mark.parametrize("row", [Row(), Row(0.6, top_p=0.95), Row(1.0, 50), Row(min_p=0.01)])
def test_threads_share_a_large_vocabulary(row: Row) -> None:
    case = Case("large", (row,) * 3, 152_064, numbers=(0.0, 0.37, BELOW_ONE), scale=2.5)
    inputs = make(case)
    exact = sample(**inputs, impl="reference")
    tokens = sample(**inputs, impl="numba")
    drawn = zip(tokens.tolist(), rows_of(inputs), strict=True)
    assert all(
        token == other or right(token, *rest)
        for other, (token, rest) in zip(exact, drawn, strict=True)
    )


BAD: dict[str, tuple[str, Any, type[Exception], str]] = {
    "dtype": ("logits", lambda t: t.double(), TypeError, "logits is torch.float64"),
    "rank": ("logits", lambda t: t[0], ValueError, r"\(97,\); expected \[rows, vocabulary\]"),
    "empty": ("logits", lambda t: t[:, :0], ValueError, r"\(12, 0\).*vocabulary at least 1"),
    "columns": ("logits", lambda t: t[:, ::2], ValueError, r"strides \(97, 2\).*last stride 1"),
    "temperatures": ("temperatures", lambda t: t[1:], ValueError, r"temperatures has shape \(11,"),
    "top_ks": ("top_ks", lambda t: t.long(), TypeError, "top_ks is torch.int64; expected.*int32"),
    "top_ps": ("top_ps", lambda t: t.double(), TypeError, "top_ps is torch.float64"),
    "strided": ("min_ps", lambda t: t.repeat(2)[::2], ValueError, r"min_ps has.*strides \(2,\)"),
    "numbers": ("numbers", lambda t: t[:, None], ValueError, r"numbers has shape \(12, 1\)"),
    "device": ("numbers", lambda t: t.to("meta"), ValueError, "numbers is on meta, logits on cpu"),
    "impl": ("impl", lambda _: "cuda", ValueError, "impl is 'cuda'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    field, change, error, message = BAD[name]
    inputs = {**make(BY_NAME["mixed"]), "impl": None}
    inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        sample(**inputs)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperatures", -0.5, "temperatures has -0.5; allowed: finite, 0 or more"),
        ("temperatures", math.inf, "temperatures has inf"),
        ("top_ks", -1, "top_ks has -1; allowed: 0 or more"),
        ("top_ps", 1.5, "top_ps has 1.5; allowed: 0 to 1"),
        ("min_ps", math.nan, "min_ps has nan"),
        ("numbers", 1.0, "numbers has 1.0; allowed: 0 up to but not 1"),
    ],
)
def test_the_reference_refuses_settings_out_of_range(name: str, value: float, message: str) -> None:
    inputs: dict[str, Tensor | Any] = make(BY_NAME["mixed"])
    inputs[name][3] = value
    with pytest.raises(ValueError, match=message):
        sample(**inputs, impl="reference")
