"""Input checks that several operations share: shapes, dtypes and devices, never contents.

They run in every layer of every step, so they only read attributes; text is made when a check
fails. Contents (lengths within the table, block ids within the pool, kept indices in order) are the
caller's promise; the reference implementations check them, the fast ones trust them.
"""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
FP8 = torch.float8_e4m3fn  # of a pool only: what is stored is round(clamp(x / scale, +-448))
FP8_LARGEST = 448.0
INTS = (torch.int32, torch.int64)

LAYER_POOL = "[blocks, kv_heads, block_size, head_dim]"
WHOLE_POOL = "[layers, blocks, kv_heads, block_size, head_dim]"


def check_tensor(
    name: str,
    tensor: Tensor,
    dtypes: tuple[torch.dtype, ...],
    layout: str,
    sizes: tuple[int | None, ...],
    like: Tensor,
) -> None:
    """Raises unless `tensor` has one of `dtypes`, those `sizes`, and lies where `like` does.

    `layout` names the sizes in messages; a size of None is free. Any strides will do.
    """
    if tensor.dtype not in dtypes:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name} is {tensor.dtype}; allowed: {allowed}")
    shape = tensor.shape
    wrong = len(shape) != len(sizes)
    for given, size in zip(shape, sizes, strict=False):
        wrong = wrong or (size is not None and given != size)
    if wrong:
        wanted = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ValueError(f"{name} has shape {tuple(shape)}; expected {layout} = [{wanted}]")
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, keys on {like.device}; one device needed")


def check_adjacent(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor
) -> None:
    """Raises unless `tensor` has that shape and dtype, a last stride of 1, and lies where `like`
    does; the other strides are free.
    """
    if tensor.dtype is not dtype:
        raise TypeError(f"{name} is {tensor.dtype}; expected {dtype}")
    if tensor.shape != shape or not (tensor.is_contiguous() or tensor.stride(-1) == 1):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} and strides {tensor.stride()}; "
            f"expected {tuple(shape)} with last stride 1"
        )
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, others on {like.device}; one needed")


def check_pool(keys: Tensor, values: Tensor, layout: str) -> None:
    """Raises unless `keys` and `values` are contiguous float tensors of one shape and layout."""
    if keys.dtype not in FLOATS and keys.dtype is not FP8:
        raise TypeError(
            f"keys are {keys.dtype}; allowed: float32, bfloat16, float16, float8_e4m3fn"
        )
    if values.dtype is not keys.dtype:
        raise TypeError(f"values are {values.dtype}, keys {keys.dtype}; give both one dtype")
    shape = keys.shape
    if len(shape) != layout.count(",") + 1 or 0 in shape:
        raise ValueError(f"keys have shape {tuple(shape)}; expected {layout}, none of them 0")
    if values.shape != shape:
        raise ValueError(
            f"values have shape {tuple(values.shape)}, keys {tuple(shape)}; equal needed"
        )
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError(
            f"keys and values must be contiguous, got strides {keys.stride()} and "
            f"{values.stride()}; "
            "pass the pool itself, or one layer of it"
        )
    if values.device != keys.device:
        raise ValueError(f"values are on {values.device}, keys on {keys.device}; one device needed")


def check_slots(name: str, tensor: Tensor, keys: Tensor, dtype: torch.dtype) -> None:
    """Raises unless `tensor` holds one contiguous `dtype` number per slot of `keys`."""
    if tensor.dtype is not dtype:
        raise TypeError(f"{name} is {tensor.dtype}; expected {dtype}")
    if tensor.shape != keys.shape[:-1]:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected {tuple(keys.shape[:-1])}, "
            f"that of keys {tuple(keys.shape)} without head_dim"
        )
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")
    if tensor.device != keys.device:
        raise ValueError(f"{name} is on {tensor.device}, keys on {keys.device}; one device needed")


def check_scales(key_scales: Tensor | None, value_scales: Tensor | None, keys: Tensor) -> None:
    """Raises unless a float8_e4m3fn pool has one float32 per KV head twice, any other pool none."""
    for name, scales in (("key_scales", key_scales), ("value_scales", value_scales)):
        if (scales is not None) is not (keys.dtype is FP8):
            given = "None" if scales is None else f"of shape {tuple(scales.shape)}"
            raise ValueError(
                f"{name} is {given} with keys of {keys.dtype}; a float8_e4m3fn pool needs scales, "
                "any other pool takes None"
            )
        if scales is not None:
            check_vector(name, scales, keys.shape[1], torch.float32, keys)


def check_vector(name: str, tensor: Tensor, size: int, dtype: torch.dtype, keys: Tensor) -> None:
    """Raises unless `tensor` has shape [size], that dtype, and lies where `keys` do."""
    if tensor.dtype is not dtype:
        raise TypeError(f"{name} is {tensor.dtype}; expected {dtype}")
    if tensor.ndim != 1 or tensor.shape[0] != size or not tensor.is_contiguous():
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} and strides {tensor.stride()}; "
            f"expected ({size},), contiguous"
        )
    if tensor.device != keys.device:
        raise ValueError(f"{name} is on {tensor.device}, keys on {keys.device}; one device needed")


def check_tables(block_tables: Tensor, keys: Tensor) -> None:
    """Raises unless `block_tables` is int32 [sequences, max_blocks] with adjacent columns."""
    if block_tables.dtype is not torch.int32:
        raise TypeError(f"block_tables is {block_tables.dtype}; expected torch.int32")
    if block_tables.ndim != 2 or block_tables.shape[1] > 1 != block_tables.stride(1):
        raise ValueError(
            f"block_tables has shape {tuple(block_tables.shape)} and strides "
            f"{block_tables.stride()}; expected [sequences, max_blocks] with last stride 1"
        )
    if block_tables.device != keys.device:
        raise ValueError(
            f"block_tables is on {block_tables.device}, keys on {keys.device}; one device needed"
        )


def check_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    lengths: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> None:
    """Raises unless these are what paged_decode and paged_prefill have in common.

    query: [rows, heads, head_dim] of the pool's dtype, or any float with an fp8 pool, whole groups
    of heads; keys and values one layer's pool; lengths: one int32 per row of block_tables.
    """
    check_pool(keys, values, LAYER_POOL)
    check_scales(key_scales, value_scales, keys)
    check_tables(block_tables, keys)
    check_vector("lengths", lengths, block_tables.shape[0], torch.int32, keys)
    check_rows("query", query, keys)
    heads, kv_heads = query.shape[1], keys.shape[1]
    if heads == 0 or heads % kv_heads:
        raise ValueError(
            f"query has {heads} heads, keys {kv_heads}; expected a positive multiple of it"
        )


def check_rows(name: str, tensor: Tensor, keys: Tensor) -> None:
    """Raises unless `tensor` is [rows, any heads, head_dim], like `keys` in dtype and device.

    Beside float8_e4m3fn keys it is any other float.
    """
    if keys.dtype is FP8:
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{name} is {tensor.dtype}; allowed: float32, bfloat16, float16")
    elif tensor.dtype is not keys.dtype:
        raise TypeError(f"{name} is {tensor.dtype}, keys {keys.dtype}; give both one dtype")
    shape = tensor.shape
    if len(shape) != 3 or shape[2] != keys.shape[3]:
        raise ValueError(
            f"{name} has shape {tuple(shape)}; expected [rows, heads, {keys.shape[3]}] to match "
            f"keys {tuple(keys.shape)}"
        )
    if tensor.device != keys.device:
        raise ValueError(f"{name} is on {tensor.device}, keys on {keys.device}; one device needed")


def check_new(key: Tensor, value: Tensor, keys: Tensor) -> None:
    """Raises unless both are [tokens, kv_heads, head_dim], what one layer's pool can store."""
    check_rows("key", key, keys)
    check_rows("value", value, keys)
    if key.shape[1] != keys.shape[1] or value.shape != key.shape:
        raise ValueError(
            f"key has shape {tuple(key.shape)}, value {tuple(value.shape)}; expected both "
            f"[tokens, {keys.shape[1]}, {keys.shape[3]}] to match keys {tuple(keys.shape)}"
        )
    if value.dtype is not key.dtype:
        raise TypeError(f"value is {value.dtype}, key {key.dtype}; give both one dtype")


def check_window(
    window: int | None,
    slot_positions: Tensor | None,
    query_positions: Tensor | None,
    query: Tensor,
    keys: Tensor,
) -> None:
    """Raises unless `window` is None, or at least 1 and given with both kinds of positions."""
    if window is None:
        return
    if window < 1:
        raise ValueError(f"window is {window}; allowed: 1 or more, or None for no window")
    if slot_positions is None or query_positions is None:
        missing = "slot_positions" if slot_positions is None else "query_positions"
        raise ValueError(f"window is {window} but {missing} is None; a window needs both")
    check_slots("slot_positions", slot_positions, keys, torch.int32)
    check_vector("query_positions", query_positions, query.shape[0], torch.int32, keys)
