"""The attention that transformers' modules call: writes the step's KV, then reads the paged cache.

Registered through AttentionInterface, so any model whose attention goes through that interface runs
unchanged. The name must not contain "flash" or "/" nor start with "paged|": transformers treats
those specially.
"""

from typing import Any

import torch
from transformers import AttentionInterface

from engine.context import ForwardContext, current_context
from kernels.paged_decode import paged_decode
from kernels.paged_prefill import paged_prefill
from kernels.write_kv import write_kv

ATTENTION_NAME = "sluice"
UNSUPPORTED = ("softcap", "s_aux", "position_bias")  # they would change the scores


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """One layer of one packed step.

    Args:
        module: the attention module; `layer_idx` says which layer of the pool it owns.
        query: [1, heads, tokens, head_dim], rotary applied.
        key: [1, kv_heads, tokens, head_dim], rotary applied, not repeated for groups.
        value: [1, kv_heads, tokens, head_dim].
        attention_mask: always None: no mask is built for a registered name.
        settings: what the module adds; `scaling` and `sliding_window` are used.

    Returns:
        [1, tokens, heads, head_dim] and None for the probabilities, which nobody materialises.
    """
    context = current_context()
    layer: int = module.layer_idx  # type: ignore[assignment]
    refused = [name for name in UNSUPPORTED if settings.get(name) is not None]
    if refused or attention_mask is not None:
        raise NotImplementedError(
            f"{type(module).__name__} asks for {refused or 'a dense mask'}, which paged attention "
            "does not offer; serve this model with another engine"
        )
    scale = settings.get("scaling") or query.shape[-1] ** -0.5
    queries = query[0].transpose(0, 1)  # [tokens, heads, head_dim]
    kv = context.pool.layers[layer]
    write_kv(
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        context.positions,
        context.slots,
        kv.keys,
        kv.values,
        kv.positions,
        slot_mass=kv.mass,
        **kv.scales,
        impl=context.impl,
    )
    context.layers_seen.add(layer)
    window: int | None = settings.get("sliding_window")
    return attend(context, layer, queries, float(scale), window).unsqueeze(0), None


def attend(
    context: ForwardContext, layer: int, queries: torch.Tensor, scale: float, window: int | None
) -> torch.Tensor:
    """Attention of queries [tokens, heads, head_dim] over the cache, in their shape.

    What policies need of the queries is stored on the way.
    """
    if context.ring is not None and context.ring_write is not None:
        context.ring.write(layer, context.ring_write, queries)
    kv, decodes = context.pool.layers[layer], context.decodes
    outputs = []
    if decodes:
        outputs.append(
            paged_decode(
                queries[:decodes],
                kv.keys,
                kv.values,
                context.decode_tables,
                context.decode_lengths,
                scale=scale,
                window=window,
                slot_positions=kv.positions,
                query_positions=context.positions[:decodes],
                **kv.scales,
                impl=context.impl,
            )
        )
    if decodes < len(queries):
        outputs.append(
            paged_prefill(
                queries[decodes:],
                kv.keys,
                kv.values,
                context.chunk_tables,
                context.chunk_lengths,
                context.chunk_starts,
                scale=scale,
                window=window,
                slot_positions=kv.positions,
                query_positions=context.positions[decodes:],
                **kv.scales,
                impl=context.impl,
            )
        )
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def register_attention() -> str:
    """Makes transformers know the attention; returns its name."""
    AttentionInterface.register(ATTENTION_NAME, paged_attention)
    return ATTENTION_NAME
