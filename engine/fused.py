"""Llama-shaped decoders in fewer and larger operations: merged projections, fused norms and rotary.

Which models are Llama-shaped is told by their modules, not their names, and proved by their logits:
`fuse` compares with the model as transformers runs it and gives up where they differ.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import embedding, linear

from engine.attention import attend
from engine.context import current_context, predict_importance
from engine.forward import LogitsOf
from engine.kv_pool import KvShape
from engine.loader import LoadedModel
from kernels.checks import FP8
from kernels.rms_norm import rms_norm
from kernels.rotary_write import rotary_write
from kernels.silu_mul import silu_mul

logger = logging.getLogger(__name__)

ALLOWED_EPSILONS = 1024  # of the model's type, for rounding in another order; a wrong term is 1
DECODER = {"embed_tokens", "layers", "norm", "rotary_emb"}
LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
HEAD_NORMS = {"q_norm", "k_norm"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
STATIC_ROPE = {"default", "linear", "llama3", "yarn"}  # angles depend on the position alone


@dataclass(frozen=True)
class Norm:
    """An RMSNorm."""

    weight: torch.Tensor  # [width]
    eps: float

    @classmethod
    def of(cls, module: Any) -> "Norm":
        eps = getattr(module, "variance_epsilon", None)
        return cls(module.weight, float(module.eps if eps is None else eps))


@dataclass(frozen=True)
class Projection:
    """Linear layers of one input, side by side."""

    weight: torch.Tensor  # [outputs, inputs]
    bias: torch.Tensor | None

    @classmethod
    def merged(cls, *modules: Any) -> "Projection":
        """One matrix; the modules' own parameters become views of it: it costs no memory."""
        weight = torch.cat([module.weight for module in modules])
        bias = None
        if modules[0].bias is not None:
            bias = torch.cat([module.bias for module in modules])
        first = 0
        for module in modules:
            last = first + len(module.weight)
            module.weight.data = weight[first:last]
            if bias is not None:
                module.bias.data = bias[first:last]
            first = last
        return cls(weight, bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    input_norm: Norm
    qkv: Projection
    query_norm: Norm | None  # of each head, before the rotary embedding
    key_norm: Norm | None
    scale: float
    output: Projection
    mlp_norm: Norm
    gate_up: Projection
    down: Projection

    @classmethod
    def of(cls, module: Any) -> "Layer":
        attention, mlp = module.self_attn, module.mlp
        query_norm, key_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        return cls(
            Norm.of(module.input_layernorm),
            Projection.merged(attention.q_proj, attention.k_proj, attention.v_proj),
            query_norm and Norm.of(query_norm),
            key_norm and Norm.of(key_norm),
            float(attention.scaling),
            Projection.merged(attention.o_proj),
            Norm.of(module.post_attention_layernorm),
            Projection.merged(mlp.gate_proj, mlp.up_proj),
            Projection.merged(mlp.down_proj),
        )


class FusedDecoder:
    """Computes what the model does; a `LogitsOf`."""

    def __init__(self, model: Any, shape: KvShape, positions: int, impl: str | None) -> None:
        decoder = model.model
        self._heads = shape.heads
        self._impl = impl
        self._embedding = decoder.embed_tokens.weight
        self._layers = [Layer.of(layer) for layer in decoder.layers]
        self._norm = Norm.of(decoder.norm)
        self._head = Projection(model.lm_head.weight, model.lm_head.bias)
        every = torch.arange(positions, device=self._embedding.device)
        cos, sin = decoder.rotary_emb(self._embedding[:1, None], every[None])
        self._cos, self._sin = cos[0].contiguous(), sin[0].contiguous()  # [positions, rotary_dim]

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, drawn: torch.Tensor
    ) -> torch.Tensor:
        context = current_context()
        residual = embedding(ids, self._embedding)  # [tokens, width]; each block adds to it
        rotary = self._cos[positions], self._sin[positions]
        x = self._normalised(residual, self._layers[0].input_norm)
        for index, layer in enumerate(self._layers):
            if index:
                x = self._normalised(x, layer.input_norm, residual)
            x = self._attention(index, layer, x, rotary)
            x = self._normalised(x, layer.mlp_norm, residual)
            x = layer.down(silu_mul(layer.gate_up(x), impl=self._impl))
        if context.importance_writes:
            x = self._normalised(x, self._norm, residual)
            predict_importance(x)
            x = x[drawn]
        else:
            x = self._normalised(x[drawn], self._norm, residual[drawn])
        return self._head(x)

    def _normalised(
        self, x: torch.Tensor, norm: Norm, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        return rms_norm(x, norm.weight, norm.eps, residual=residual, impl=self._impl)

    def _attention(
        self, index: int, layer: Layer, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        context = current_context()
        kv = context.pool.layers[index]
        queries = rotary_write(
            layer.qkv(x),
            *rotary,
            context.positions,
            context.slots,
            kv.keys,
            kv.values,
            kv.positions,
            heads=self._heads,
            query_norm=layer.query_norm.weight if layer.query_norm else None,
            key_norm=layer.key_norm.weight if layer.key_norm else None,
            eps=layer.query_norm.eps if layer.query_norm else 0.0,
            slot_mass=kv.mass,
            impl=self._impl,
        )
        attended = attend(context, index, queries, layer.scale, None)
        return layer.output(attended.flatten(1))


def fuse(
    loaded: LoadedModel,
    stock: LogitsOf,
    impl: str | None,
    probe: Callable[[LogitsOf], torch.Tensor],
) -> LogitsOf:
    """The model fused where that changes nothing, else as transformers runs it.

    Args:
        loaded: its projections are merged in place if it is Llama-shaped.
        stock: the model as transformers runs it.
        impl: of the kernels; see `kernels.impl`.
        probe: logits of some tokens, computed in the given way.
    """
    if loaded.shape.stored is FP8 or not matches(loaded.model):
        return stock
    expected = probe(stock).float()
    fused = FusedDecoder(loaded.model, loaded.shape, loaded.max_sequence_tokens, impl)
    error = float((probe(fused).float() - expected).abs().max() / expected.abs().max())
    allowed = ALLOWED_EPSILONS * torch.finfo(loaded.shape.dtype).eps
    if error <= allowed:
        return fused
    logger.warning(
        "%s looks like a Llama, but its logits differ by %.2g of their largest when fused (%.2g is "
        "rounding): it runs as transformers has it, which is slower",
        loaded.architecture,
        error,
        allowed,
    )
    return stock


def matches(model: Any) -> bool:
    """Whether the modules are those of a Llama-shaped decoder without sliding windows."""
    decoder = getattr(model, "model", None)
    if decoder is None or _children(decoder) != DECODER or not hasattr(model, "lm_head"):
        return False
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    static = rope.get("rope_type", "default") in STATIC_ROPE
    slides = getattr(config, "sliding_window", None) is not None
    return static and not slides and all(_layer_matches(layer) for layer in decoder.layers)


def _layer_matches(layer: Any) -> bool:
    if _children(layer) != LAYER or _children(layer.mlp) != MLP:
        return False
    attention = layer.self_attn
    linears = [getattr(attention, name, None) for name in sorted(ATTENTION)]
    linears += [layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]
    return (
        _children(attention) in (ATTENTION, ATTENTION | HEAD_NORMS)
        and all(type(module) is torch.nn.Linear for module in linears)
        and getattr(attention, "sliding_window", None) is None
        and hasattr(attention, "scaling")
    )


def _children(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()}
