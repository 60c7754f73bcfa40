"""Writes the weights of a transformers model as a GGUF file, for llama.cpp.

Names, order of rows and metadata as llama.cpp's convert_hf_to_gguf.py has them; float32 throughout;
no tokens, since only ids are fed. Needs the package `gguf`.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}


def write_gguf(model: Any, path: Path) -> None:
    """Writes `model`, a LlamaForCausalLM or Qwen2ForCausalLM in memory, to `path`.

    Raises:
        ImportError: the package `gguf` is not installed.
        ValueError: another architecture, or rotary positions that the file cannot express.
    """
    try:
        gguf = import_module("gguf")
    except ImportError as error:
        raise ImportError(
            "the weights of llama.cpp's model are written with gguf, which is not installed: "
            "pip install gguf"
        ) from error
    name = type(model).__name__
    if name not in ARCHITECTURES:
        allowed = ", ".join(ARCHITECTURES)
        raise ValueError(f"the model is a {name}; as GGUF can be written: {allowed}")
    writer = gguf.GGUFWriter(str(path), ARCHITECTURES[name])
    try:
        _describe(writer, model.config)
        names = gguf.get_tensor_name_map(
            getattr(gguf.MODEL_ARCH, ARCHITECTURES[name].upper()), model.config.num_hidden_layers
        )
        for theirs, tensor in _tensors(model):
            ours = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
            if ours is None:
                raise ValueError(f"GGUF has no name for {theirs}; measure without llama_cpp")
            writer.add_tensor(ours, tensor)
        factors = _rotary_factors(model)
        if factors is not None:
            writer.add_tensor("rope_freqs.weight", factors)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _describe(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))
    writer.add_rope_dimension_count(_head_dim(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")


def _tensors(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Weights by the names transformers gives them, float32."""
    config = model.config
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.float().numpy()
        if type(model).__name__ == "LlamaForCausalLM":
            if ".q_proj." in name:
                array = interleave(array, config.num_attention_heads)
            elif ".k_proj." in name:
                array = interleave(array, config.num_key_value_heads)
        yield name, np.ascontiguousarray(array)


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Query or key rows, [heads * head_dim, ...], as llama.cpp's Llama rotates them.

    transformers pairs row i of a head with row i + head_dim / 2; llama.cpp's graph of Llama pairs
    neighbours. Its graph of Qwen2 pairs as transformers does.
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _rotary_factors(model: Any) -> np.ndarray | None:
    """What each rotary frequency is divided by, [head_dim / 2] float32; None where by nothing."""
    parameters = model.config.rope_parameters
    kind = parameters["rope_type"]
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f"rotary positions are scaled as {kind!r}; allowed: 'default', 'llama3'")
    used = model.model.rotary_emb.inv_freq
    head_dim = _head_dim(model.config)
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    factors: np.ndarray = (parameters["rope_theta"] ** -exponents / used.float()).numpy()
    return factors


def _head_dim(config: Any) -> int:
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)
