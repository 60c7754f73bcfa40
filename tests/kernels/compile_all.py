"""Compiles every Triton kernel for a GPU that need not be present; prints what each needs, as JSON
lines.

Run as `python -m tests.kernels.compile_all TARGET FOLDER` without TRITON_INTERPRET: an interpreted
kernel cannot be compiled, which is why test_compile starts this in processes of its own.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kernels.families import Family
from tests.thorough import THOROUGH

TARGETS = {"sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
if THOROUGH:
    TARGETS["sm_80"] = ("cuda", 80, 32)
FAMILIES = {"sm_80": Family.AMPERE, "sm_90": Family.HOPPER, "gfx942": Family.CDNA}
HEAD_DIMS = (64, 128) if THOROUGH else (128,)
WINDOW_HEAD_DIMS = (*HEAD_DIMS, 256) if THOROUGH else HEAD_DIMS
# Else the shapes of the published models: R1-Distill-Llama-8B has groups of 4 heads, -Qwen-7B of 7.
GROUPS = (1, 4, 7, 8) if THOROUGH else (4, 7)
DTYPES = {"bf16": 2, "fp32": 4} if THOROUGH else {"bf16": 2}  # and the bytes of a number
VOCABULARIES = (384, 152064)
INTEGERS = "block_tables lengths query_starts positions slot_positions query_positions kept excused"
NUMBERS = "partial partial_max partial_sum slot_mass scores largest share"
NUMBERS += " excused_cosine asking spread key_scales value_scales"
INTEGERS += " top_ks"
NUMBERS += " temperatures top_ps min_ps numbers"
# what a pool stores and what attention computes with, where they are not one dtype; Triton offers
# fp8e4nv on NVIDIA GPUs from sm_89 on
FP8 = {"fp8": ("fp8e4nv", "bf16"), "fp8-fp32": ("fp8e4nv", "fp32"), "bytes": ("u8", "bf16")}
NO_FP8 = {"sm_80"}
ROWS = "query queries out key value hidden weight residual gate_up qkv cos sin query_norm key_norm"
POINTERS = {  # to numbers of the pool's dtype, of the model's, and to others
    "pool": {"keys", "values"},
    "rows": {*ROWS.split(), "logits"},
    "i32": set(INTEGERS.split()),
    "i64": {"slots", "pinned", "recent_entries", "kept_entries", "chosen"},
    "i8": {"stays"},
    "fp32": set(NUMBERS.split()),
}
ALIGNED = tuple(  # multiples of 16 in every real model
    f"{name}_stride"
    for name in (
        *("row", "token", "head", "layer", "sequence", "query", "key", "cache"),
        *("hidden", "residual", "gate", "qkv", "cos", "sin"),
    )
)
LAUNCH = ("num_warps", "num_stages")


def attention(
    sizes: dict[str, int], itemsize: int, family: Family
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The two attention kernels with the constants their launchers would pass."""
    from kernels.paged_decode import kernel as decode
    from kernels.paged_prefill import kernel as prefill

    group, head_dim = sizes["group"], sizes["head_dim"]
    shape = {"KV_HEADS": 8, "GROUP": group, "HEAD_DIM": head_dim, "BLOCK_SIZE": 16, "SPLIT": 512}
    yield (
        decode.paged_decode_split_kernel,
        {**shape, **decode.split_options(group, head_dim, itemsize, family)},
    )
    yield (
        prefill.paged_prefill_kernel,
        {**shape, **prefill.tile_options(group, head_dim, itemsize, family)},
    )


def fp8(target: str) -> Iterator[tuple[str, dict[str, int], Any, dict[str, Any]]]:
    """What `matrix` yields of an fp8 pool."""
    from kernels.compact_kv.kernel import compact_kv_kernel, move_options
    from kernels.write_kv.kernel import write_kv_kernel

    variants = [("fp8", 2, group, dim, False) for dim in HEAD_DIMS for group in (4, 7)]
    variants += [("fp8", 2, 4, dim, True) for dim in WINDOW_HEAD_DIMS]
    if "fp32" in DTYPES:
        variants += [("fp8-fp32", 4, 4, dim, False) for dim in HEAD_DIMS]
    for dtype, itemsize, group, head_dim, window in variants:
        sizes = {"group": group, "head_dim": head_dim}
        for kernel, constants in attention(sizes, itemsize, FAMILIES[target]):
            options = {"HAS_WINDOW": window, "HAS_SCALES": True}
            yield dtype, sizes, kernel, {**constants, **options}
    for head_dim in HEAD_DIMS:
        sizes = {"group": 0, "head_dim": head_dim}
        shape = {"KV_HEADS": 8, "HEAD_DIM": head_dim, "BLOCK_SIZE": 16, "BLOCK_DIM": head_dim}
        shape |= {"HAS_MASS": True}
        write = {**shape, "BLOCK_KV_HEADS": 8, "HAS_SCALES": True}
        for dtype in ("fp8", "fp8-fp32"):
            yield dtype, sizes, write_kv_kernel, write
        yield "bytes", sizes, compact_kv_kernel, {**shape, **move_options(head_dim, 1)}


def others(head_dim: int, itemsize: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The kernels that do not depend on the group of heads, with every option on."""
    from kernels.compact_kv.kernel import compact_kv_kernel, move_options
    from kernels.paged_decode.kernel import MAX_SPLITS, paged_decode_merge_kernel
    from kernels.rms_norm import kernel as norm
    from kernels.rotary_write import kernel as rotary
    from kernels.silu_mul import kernel as silu
    from kernels.write_kv.kernel import write_kv_kernel

    shape = {"KV_HEADS": 8, "HEAD_DIM": head_dim, "BLOCK_SIZE": 16, "BLOCK_DIM": head_dim}
    write = {"BLOCK_KV_HEADS": 8, "HAS_MASS": True, "HAS_SCALES": False}
    yield write_kv_kernel, {**shape, **write}
    yield compact_kv_kernel, {**shape, **move_options(head_dim, itemsize), "HAS_MASS": True}
    merge = {"HEADS": 32, "SPLIT": 512, "HAS_WINDOW": True, "BLOCK_SPLITS": MAX_SPLITS}
    yield paged_decode_merge_kernel, {**shape, **merge}
    width = 64 * head_dim  # up to the widest row that rms_norm takes
    rows = {"WIDTH": width, "HAS_RESIDUAL": True, **norm.tile_options(width)}
    yield norm.rms_norm_kernel, rows
    yield silu.silu_mul_kernel, {"WIDTH": 2 * width, **silu.tile_options(2 * width)}
    turn = {**shape, **rotary.tile_options(64, 8, head_dim), "HEADS": 64, "ROTARY_DIM": head_dim}
    options = {"HAS_QUERY_NORM": True, "HAS_KEY_NORM": True, "HAS_MASS": True}
    yield rotary.rotary_write_kernel, {**turn, **options}


def scorers(
    sizes: dict[str, int], itemsize: int, family: Family
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The kernels that eviction policies rank by; group 7 in the forms of R-KV."""
    from kernels.key_redundancy import kernel as redundancy
    from kernels.select_entries import kernel as selection
    from kernels.trigonometric_score import kernel as trigonometric
    from kernels.window_attention import kernel as window

    group, head_dim = sizes["group"], sizes["head_dim"]
    shape = {"LAYERS": 32, "KV_HEADS": 8, "GROUP": group, "HEAD_DIM": head_dim}
    attend = {**shape, **window.tile_options(head_dim, itemsize, family), "STRONGEST": group == 7}
    yield window.window_statistics_kernel, attend
    yield window.window_reduce_kernel, {**attend, "LARGEST": group == 7, "MEAN": group != 7}
    rows = {**shape, **redundancy.tile_options(head_dim, itemsize), "MEAN": group != 7}
    yield redundancy.redundancy_rows_kernel, rows
    excused = {"BLOCK_EXCUSED": redundancy.BLOCK_EXCUSED, "num_warps": 4}
    yield redundancy.redundancy_excuse_kernel, excused
    score = {**shape, **trigonometric.tile_options(head_dim)}
    yield trigonometric.trigonometric_score_kernel, score
    mark = {"BLOCK_TOKENS": selection.BLOCK_TOKENS, "num_warps": selection.MARK_WARPS}
    yield selection.select_mark_kernel, {"ROWS_PER_SEQUENCE": 256, **mark}
    place = {"BLOCK_ROW": selection.BLOCK_ROW, "num_warps": 4}
    yield selection.select_place_kernel, place


def samplers() -> Iterator[tuple[str, dict[str, int], Any, dict[str, Any]]]:
    """The sampler over a vocabulary of one tile and over one of many; no heads are involved."""
    from kernels.sample.kernel import SPARE_BITS, sample_kernel, tile_options

    for vocabulary in VOCABULARIES:
        for dtype, spare in (
            ("bf16", torch.bfloat16),
            ("fp16", torch.float16),
            ("fp32", torch.float32),
        ):
            constants = {**tile_options(vocabulary), "SPARE": SPARE_BITS[spare]}
            yield (
                dtype,
                {"group": 0, "head_dim": 0, "vocabulary": vocabulary},
                sample_kernel,
                constants,
            )


def matrix(target: str) -> Iterator[tuple[str, dict[str, int], Any, dict[str, Any]]]:
    """(dtype, sizes, kernel, constants) of everything that is compiled for a target."""
    variants = [("bf16", 2, group, dim, False) for dim in HEAD_DIMS for group in GROUPS]
    variants += [("bf16", 2, 4, dim, True) for dim in WINDOW_HEAD_DIMS]
    if "fp32" in DTYPES:
        variants += [("fp32", 4, 4, dim, False) for dim in HEAD_DIMS]
    for dtype, itemsize, group, head_dim, window in variants:
        sizes = {"group": group, "head_dim": head_dim}
        for kernel, constants in attention(sizes, itemsize, FAMILIES[target]):
            options = {"HAS_WINDOW": window, "HAS_SCALES": False}
            yield dtype, sizes, kernel, {**constants, **options}
    if target not in NO_FP8:
        yield from fp8(target)
    for head_dim in HEAD_DIMS:
        for dtype, itemsize in DTYPES.items():
            for kernel, constants in others(head_dim, itemsize):
                yield dtype, {"group": 0, "head_dim": head_dim}, kernel, constants
            for group in (4, 7):
                sizes = {"group": group, "head_dim": head_dim}
                for kernel, constants in scorers(sizes, itemsize, FAMILIES[target]):
                    yield dtype, sizes, kernel, constants
    yield from samplers()


def type_of(name: str, dtype: str) -> str:
    """The Triton type of a kernel argument that is not a constant."""
    stored, computed = FP8.get(dtype, (dtype, dtype))
    for pointee, names in POINTERS.items():
        if name in names:
            return "*" + {"pool": stored, "rows": computed}.get(pointee, pointee)
    return "fp32" if name in ("scale", "excused_above", "eps") else "i32"


def build(kernel: Any, dtype: str, constants: dict[str, Any], target: tuple[Any, ...]) -> Any:
    """The compiled kernel, with the alignments that real tensors have."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    values = {name: value for name, value in constants.items() if name in names}
    signature = {name: "constexpr" if name in values else type_of(name, dtype) for name in names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if (signature[name].startswith("*") or name.endswith(ALIGNED))
        and not kernel.params[index].do_not_specialize_on_alignment
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    options = {name: constants[name] for name in LAUNCH if name in constants}
    return triton.compile(source, target=GPUTarget(*target), options=options)


def cuda_resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Registers, stack and local bytes per thread, read off the machine code."""
    import triton.backends.nvidia

    tool = Path(next(iter(triton.backends.nvidia.__path__))) / "bin" / "cuobjdump"
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    text = subprocess.run(
        [tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True
    ).stdout
    found = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text))
    return {
        "registers": int(found["REG"]),
        "stack": int(found["STACK"]),
        "local": int(found["LOCAL"]),
    }


def hip_resources(assembly: str) -> dict[str, int]:
    """Registers per lane, spills, and scratch bytes, from the metadata of the assembly."""
    fields = {
        "registers": "vgpr_count",
        "vector_spills": "vgpr_spill_count",
        "scalar_spills": "sgpr_spill_count",
        "stack": "private_segment_fixed_size",
    }
    return {
        name: int(re.search(rf"\.{field}:\s+(\d+)", assembly)[1])  # type: ignore[index]
        for name, field in fields.items()
    }


def main(target: str, folder: Path) -> None:
    os.environ["TRITON_CACHE_DIR"] = str(folder / "cache")
    for dtype, sizes, kernel, constants in matrix(target):
        compiled = build(kernel, dtype, constants, TARGETS[target])
        if "cubin" in compiled.asm:
            needs = cuda_resources(compiled.asm["cubin"], folder)
        else:
            needs = hip_resources(compiled.asm["amdgcn"])
        row = {"kernel": kernel.__name__, "target": target, "dtype": dtype, **sizes}
        row["window"] = bool(constants.get("HAS_WINDOW"))
        print(json.dumps({**row, **needs, "shared": compiled.metadata.shared}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
