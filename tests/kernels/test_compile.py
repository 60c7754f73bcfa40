"""Every Triton kernel compiles ahead of time for each GPU family, and spills no registers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.compile_all import DTYPES, GROUPS, HEAD_DIMS, NO_FP8, TARGETS, VOCABULARIES

pytest.importorskip("triton")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
# bytes of shared memory a program may use; sm_80 is held to the 99 KiB of its consumer siblings
# sm_86 and sm_89
SHARED = {"sm_80": 99 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}
ATTENTION = ("paged_decode_split_kernel", "paged_prefill_kernel")
SCORERS = (
    "window_statistics_kernel",
    "window_reduce_kernel",
    "redundancy_rows_kernel",
    "redundancy_excuse_kernel",
    "trigonometric_score_kernel",
    "select_mark_kernel",
    "select_place_kernel",
)
OTHERS = (
    "paged_decode_merge_kernel",
    "write_kv_kernel",
    "compact_kv_kernel",
    "rms_norm_kernel",
    "silu_mul_kernel",
    "rotary_write_kernel",
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every kernel needs, compiled by one process per target."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    running = []
    for target in TARGETS:
        command = [sys.executable, "-m", "tests.kernels.compile_all", target]
        command.append(str(tmp_path_factory.mktemp(target)))
        running.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    finished = [(process, *process.communicate()) for process in running]
    for process, _, errors in finished:
        assert process.returncode == 0, errors[-4000:]
    return [json.loads(line) for _, output, _ in finished for line in output.splitlines()]


def test_every_kernel_is_compiled_for_every_target(rows: list[dict[str, Any]]) -> None:
    names = ("kernel", "target", "head_dim", "group", "dtype")
    compiled = {tuple(row[name] for name in names) for row in rows}
    for target in TARGETS:
        for head_dim in HEAD_DIMS:
            for kernel in ATTENTION:
                assert {(kernel, target, head_dim, group, "bf16") for group in GROUPS} <= compiled
                assert {(kernel, target, head_dim, 4, dtype) for dtype in DTYPES} <= compiled
            for kernel in SCORERS:
                variants = {(group, dtype) for group in (4, 7) for dtype in DTYPES}
                assert {(kernel, target, head_dim, *variant) for variant in variants} <= compiled
            for kernel in OTHERS:
                assert (kernel, target, head_dim, 0, "bf16") in compiled
        samplers = {
            (row["vocabulary"], row["dtype"])
            for row in rows
            if (row["kernel"], row["target"]) == ("sample_kernel", target)
        }
        dtypes = ("bf16", "fp16", "fp32")
        assert samplers == {(size, dtype) for size in VOCABULARIES for dtype in dtypes}


def test_an_fp8_pool_is_compiled_for_every_target_that_has_the_type(
    rows: list[dict[str, Any]],
) -> None:
    names = ("kernel", "target", "head_dim", "group", "dtype")
    compiled = {tuple(row[name] for name in names) for row in rows}
    for target in TARGETS.keys() - NO_FP8:
        for head_dim in HEAD_DIMS:
            for kernel in ATTENTION:
                others = [(4, "fp8-fp32")] if "fp32" in DTYPES else []
                for variant in ((4, "fp8"), (7, "fp8"), *others):
                    assert (kernel, target, head_dim, *variant) in compiled
            assert ("write_kv_kernel", target, head_dim, 0, "fp8") in compiled
            assert ("compact_kv_kernel", target, head_dim, 0, "bytes") in compiled


def test_nothing_spills(rows: list[dict[str, Any]]) -> None:
    spills = ("stack", "local", "vector_spills", "scalar_spills")
    assert [row for row in rows if any(row.get(spill, 0) for spill in spills)] == []


def test_shared_memory_fits(rows: list[dict[str, Any]]) -> None:
    assert [row for row in rows if row["shared"] > SHARED[row["target"]]] == []
