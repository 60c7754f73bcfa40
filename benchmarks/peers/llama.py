"""llama.cpp's batched decoding through llama-cpp-python's low-level calls.

One `llama_decode` per step with a row for each sequence. The batch's arrays are filled through
numpy views made once, and the greedy tokens are one argmax over the [sequences, vocabulary] block
that llama.cpp keeps, so Python adds a few calls to a step and no loop over sequences.
"""

import ctypes
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.peers.gguf_file import write_gguf
from benchmarks.workload import Run, System, Workload

MICRO_BATCH = 512  # llama.cpp's default; larger ones were no quicker
TRIALS = 2  # runs of each of VARIANTS, of which the quicker one is measured
VARIANTS = {  # the other pairs of attention and cache type were slower than one of these
    "flash attention off, float32 cache": (0, "GGML_TYPE_F32"),
    "flash attention on, float16 cache": (1, "GGML_TYPE_F16"),
}
_SILENT: list[Any] = []  # the log callback, which must outlive every call


def llama_cpp(workload: Workload) -> System:
    """llama.cpp on the same weights, a KV stream per sequence, in the quicker of VARIANTS.

    Raises:
        ImportError: llama-cpp-python or gguf is not installed.
        ValueError: the model cannot be written as GGUF.
    """
    model = _load(workload)
    contexts = {words: Context(model, workload, *VARIANTS[words]) for words in VARIANTS}
    for context in contexts.values():
        context.run(1)
    # Whole runs: which is quicker depends on the length, and on the prompts' share of the time.
    trials = [
        {words: context.run(workload.new_tokens).seconds for words, context in contexts.items()}
        for _ in range(TRIALS)
    ]
    quickest = {words: min(trial[words] for trial in trials) for words in contexts}
    chosen = min(quickest, key=lambda words: quickest[words])
    for words, context in contexts.items():
        if words != chosen:
            context.close()
    return System("llama_cpp", contexts[chosen].run, f"{chosen}, KV per sequence")


class Context:
    """A llama.cpp context with room for the workload."""

    def __init__(self, model: Any, workload: Workload, flash: int, cache: str) -> None:
        self._library = library = _library()
        self._prompts = np.array(workload.prompts, dtype=np.int32)
        rows, length = self._prompts.shape
        self._vocabulary: int = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
        settings = library.llama_context_default_params()
        settings.n_ctx = rows * workload.longest
        settings.n_batch = rows * length
        settings.n_ubatch = max(MICRO_BATCH, rows)
        settings.n_seq_max = rows
        settings.n_threads = settings.n_threads_batch = workload.threads
        settings.flash_attn_type = flash
        settings.type_k = settings.type_v = getattr(library, cache)
        settings.kv_unified = False
        settings.no_perf = True
        self._context = library.llama_init_from_model(model, settings)
        if not self._context:
            raise RuntimeError(
                f"llama.cpp made no context for {rows} sequences of {workload.longest} tokens; "
                "it takes at most 256 sequences"
            )
        self._batch = library.llama_batch_init(rows * length, 0, 1)
        views = (self._batch.token, self._batch.pos, self._batch.n_seq_id, self._batch.logits)
        self._ids, self._positions, self._counts, self._wanted = (
            np.ctypeslib.as_array(view, (rows * length,)) for view in views
        )

    def run(self, new_tokens: int) -> Run:
        """All prompts in one batch, then a step for each further token."""
        library = self._library
        rows, length = self._prompts.shape
        tokens = np.empty((new_tokens, rows), dtype=np.int32)
        started = time.perf_counter()
        library.llama_memory_clear(library.llama_get_memory(self._context), False)
        self._counts[:] = 1
        self._lay_out(np.repeat(np.arange(rows), length))
        self._ids[:] = self._prompts.ravel()
        self._positions[:] = np.tile(np.arange(length), rows)
        self._wanted[:] = 0
        self._wanted[length - 1 :: length] = 1
        tokens[0] = self._decode(rows)
        self._lay_out(np.arange(rows))
        self._positions[:rows] = length
        self._wanted[:rows] = 1
        for step in range(1, new_tokens):
            self._ids[:rows] = tokens[step - 1]
            tokens[step] = self._decode(rows)
            self._positions[:rows] += 1
        seconds = time.perf_counter() - started
        return Run(tokens.T.tolist(), seconds, new_tokens)

    def close(self) -> None:
        self._library.llama_batch_free(self._batch)
        self._library.llama_free(self._context)

    def _lay_out(self, sequences: np.ndarray) -> None:
        """Which sequence each row of the batch belongs to."""
        self._batch.n_tokens = len(sequences)
        for row, sequence in enumerate(sequences.tolist()):
            self._batch.seq_id[row][0] = sequence

    def _decode(self, rows: int) -> np.ndarray:
        """Runs the batch; the most probable token of each row that asked, [rows]."""
        status = self._library.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}; 0 is success, 1 is no KV room")
        block = self._library.llama_get_logits(self._context)
        best: np.ndarray = np.ctypeslib.as_array(block, (rows, self._vocabulary)).argmax(axis=1)
        return best


def _load(workload: Workload) -> Any:
    """The workload's model in llama.cpp."""
    library = _library()
    source = AutoModelForCausalLM.from_pretrained(
        workload.model, dtype=torch.float32, use_safetensors=True
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf(source, path)
        settings = library.llama_model_default_params()
        settings.use_mmap = False  # the file is gone after this
        model = library.llama_model_load_from_file(str(path).encode(), settings)
    if not model:
        raise RuntimeError(f"llama.cpp could not load {workload.model} written as GGUF")
    return model


def _library() -> Any:
    try:
        library = import_module("llama_cpp")
    except ImportError as error:
        raise ImportError(
            "llama.cpp is measured through llama-cpp-python, which is not installed: "
            "pip install -e '.[peers]'"
        ) from error
    if not _SILENT:
        _SILENT.append(library.llama_log_callback(lambda level, text, data: None))
        library.llama_log_set(_SILENT[0], ctypes.c_void_p(0))
        library.llama_backend_init()
    return library
