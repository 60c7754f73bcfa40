"""compact_kv: every implementation moves the kept slots, bit for bit, and touches nothing else."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.compact_kv import compact_kv
from kernels.compact_kv.cases import CASES, NO_BLOCK, Case, make
from kernels.impl import Impl
from tests.kernels import oracle
from tests.kernels.implementations import IMPLS, device, moved_to, skip_unsupported
from tests.kernels.oracle import same_bits

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_moves_kept_slots_bit_for_bit_and_nothing_else(case: Case, impl: Impl) -> None:
    """Pools are random bits, NaN payloads included; unneeded table entries name no block."""
    skip_unsupported(impl, case.dtype)
    inputs = make(case, device(impl))
    expected = oracle.compacted(moved_to(inputs, "cpu"))
    compact_kv(**inputs, impl=impl)
    for name, pool in expected.items():
        assert same_bits(inputs[name].cpu(), pool), name


@pytest.mark.parametrize("impl", IMPLS)
def test_a_shared_prefix_survives_and_is_not_even_looked_up(impl: Impl) -> None:
    inputs = make(BY_NAME["shared-prefix"], device(impl))
    assert (inputs["block_tables"][:, :2] == NO_BLOCK).all(), "entries under which nothing moves"
    before = inputs["keys"].clone()
    compact_kv(**inputs, impl=impl)
    own = inputs["block_tables"][:, 2:]
    untouched = torch.ones(before.shape[1], dtype=torch.bool)
    untouched[own[own != NO_BLOCK].long().cpu()] = False
    assert untouched.sum() == 3
    assert same_bits(inputs["keys"][:, untouched], before[:, untouched])


@pytest.mark.parametrize("impl", IMPLS)
def test_identity_entries_write_nothing_even_to_poison(impl: Impl) -> None:
    inputs = make(BY_NAME["one"], device(impl))
    identity = torch.arange(inputs["kept"].shape[-1], dtype=torch.int32)
    inputs["kept"].copy_(identity.expand_as(inputs["kept"]))
    inputs["block_tables"].fill_(-1)
    before = moved_to(inputs, "cpu")
    compact_kv(**inputs, impl=impl)
    for name in ("keys", "values", "slot_positions", "slot_mass"):
        assert same_bits(inputs[name].cpu(), before[name])


@pytest.mark.parametrize("impl", IMPLS)
def test_a_shift_by_one_reads_each_slot_before_it_is_overwritten(impl: Impl) -> None:
    """Every target is the next one's source: any wrong order within or between tiles shows."""
    inputs = make(Case("shift", (97,), count=96, layers=1, kv_heads=1), device(impl))
    inputs["kept"].copy_(torch.arange(1, 97, dtype=torch.int32).view(1, 1, 1, -1))
    expected = oracle.compacted(moved_to(inputs, "cpu"))
    compact_kv(**inputs, impl=impl)
    assert same_bits(inputs["values"].cpu(), expected["values"])


@st.composite
def compactions(draw: st.DrawFn) -> tuple[list[list[list[int]]], int, int]:
    """kept[sequence][head], ascending, of one layer; slots held per sequence; block size."""
    block_size = draw(st.integers(1, 6))
    held = draw(st.integers(1, 20))
    count = draw(st.integers(1, held))
    slots = st.lists(st.integers(0, held - 1), min_size=count, max_size=count, unique=True)
    heads = st.lists(slots.map(sorted), min_size=2, max_size=2)
    return draw(st.lists(heads, min_size=1, max_size=3)), held, block_size


@pytest.mark.parametrize("impl", [Impl.REFERENCE, Impl.NUMBA])
@settings(max_examples=60, deadline=None)
@given(compactions())
def test_agrees_with_lists(impl: Impl, drawn: tuple[list[list[list[int]]], int, int]) -> None:
    """Each head's cache as a Python list: compaction is [cache[i] for i in kept]."""
    kept, held, block_size = drawn
    width = -(-held // block_size)
    tables = torch.arange(len(kept) * width, dtype=torch.int32).flip(0).view(len(kept), width)
    shape = (1, tables.numel(), 2, block_size)
    numbers = torch.arange(tables.numel() * 2 * block_size).view(shape)
    pools: dict[str, Any] = {
        "keys": numbers[..., None].float().clone(),
        "values": -numbers[..., None].float(),
        "slot_positions": numbers.int().clone(),
        "slot_mass": numbers.float() / 2,
    }

    def lists(name: str) -> list[list[list[float]]]:
        pool = pools[name].view(shape)[0]
        return [
            [pool[table.long(), head].flatten().tolist() for head in range(2)] for table in tables
        ]

    before = {name: lists(name) for name in pools}
    kept_tensor = torch.tensor(kept, dtype=torch.int64)[:, None]
    compact_kv(**pools, block_tables=tables, kept=kept_tensor, impl=impl)
    for name in pools:
        after = lists(name)
        for sequence, heads in enumerate(kept):
            for head, sources in enumerate(heads):
                old = before[name][sequence][head]
                wanted = [old[source] for source in sources] + old[len(sources) :]
                assert after[sequence][head] == wanted


BAD: dict[str, tuple[str, Any, type[Exception], str]] = {
    "kept dtype": ("kept", lambda t: t.float(), TypeError, "kept is torch.float32"),
    "kept layers": ("kept", lambda t: t[:, :1], ValueError, r"\(1, 1, 2, 40\).*\[1, 2, 2, count\]"),
    "kept strides": ("kept", lambda t: t.mT.contiguous().mT, ValueError, "contiguous"),
    "kept device": ("kept", lambda t: t.to("meta"), ValueError, "kept is on meta"),
    "pool rank": ("keys", lambda t: t[0], ValueError, r"\[layers, blocks, kv_heads"),
    "values": ("values", lambda t: t[:1], ValueError, "values have shape"),
    "positions": ("slot_positions", lambda t: t[:1], ValueError, "slot_positions has shape"),
    "mass": ("slot_mass", lambda t: t.double(), TypeError, "slot_mass is torch.float64"),
    "table": ("block_tables", lambda t: t[0], ValueError, "block_tables has shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_with_the_value(name: str) -> None:
    field, change, error, message = BAD[name]
    inputs = make(BY_NAME["one"])
    inputs[field] = change(inputs[field])
    with pytest.raises(error, match=message):
        compact_kv(**inputs)


@pytest.mark.parametrize("kept", [[5, 3], [2, 2], [0, 100], [3, 0]])
def test_the_reference_refuses_kept_slots_out_of_order(kept: list[int]) -> None:
    inputs = make(Case("small", (16,), count=2, layers=1, kv_heads=1))
    inputs["kept"] = torch.tensor(kept, dtype=torch.int32).view(1, 1, 1, 2)
    with pytest.raises(ValueError, match="they must ascend, lie after their targets"):
        compact_kv(**inputs, impl="reference")
