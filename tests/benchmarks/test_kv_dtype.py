"""The comparison of cache types: what it calls equal, and that its budget takes something away."""

from dataclasses import replace

from benchmarks.kv_dtype import BUDGET, Engine, compare, table
from clients.workloads.pocket import problems

ASKED = problems("memo", 2, 7003)


def test_an_engine_compared_with_itself_shows_no_difference() -> None:
    wide, narrow = Engine("pocket-llama", "auto"), Engine("pocket-llama", "fp8_e4m3")
    same = compare((None, None), wide, wide, ASKED)
    assert (same.difference, same.low, same.high, same.identical) == (0.0, 0.0, 0.0, 1.0)
    assert same.pass_at_1_float32 == same.pass_at_1_fp8 == 1.0
    assert same.evicted == 0
    budgeted = compare((BUDGET, "window"), wide, narrow, ASKED)
    assert budgeted.evicted > 0
    assert budgeted.kv_bytes_per_token_float32 == 4 * budgeted.kv_bytes_per_token_fp8
    assert budgeted.identical in (0.0, 0.5, 1.0)
    rows = [same, replace(budgeted, model="pocket-qwen")]
    assert table(rows).row_count == 2
