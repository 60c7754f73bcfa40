"""transformers' two ways to generate: a static batch, and continuous batching."""

import logging
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from benchmarks.workload import Run, System, Workload

PAGE = 256  # tokens, transformers' default


def transformers_generate(workload: Workload) -> System:
    """`generate` in its best case: one static batch of equal lengths, with its dynamic cache."""
    model = _load(workload)
    ids = torch.tensor(workload.prompts)
    mask = torch.ones_like(ids)

    @torch.inference_mode()
    def run(new_tokens: int) -> Run:
        model.generation_config = config = _greedy(new_tokens, end=None)
        started = time.perf_counter()
        out = model.generate(ids, attention_mask=mask, generation_config=config)
        tokens = out[:, ids.shape[1] :].tolist()
        return Run(tokens, time.perf_counter() - started, new_tokens)

    return System("transformers_generate", run, "static batch, sdpa, dynamic cache")


def transformers_generate_batch(workload: Workload) -> System:
    """`generate_batch`, its pool made for this workload: quicker here than the size it chooses."""
    model = _load(workload)
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
    count = len(workload.prompts)
    settings = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=count * -(-workload.longest // PAGE) + 1,
        max_batch_tokens=count * workload.prompt_tokens,
        max_requests_per_batch=count,
        allow_block_sharing=False,
    )

    def run(new_tokens: int) -> Run:
        # Without an end token it takes the model's; no token has the id -1.
        model.generation_config = config = _greedy(new_tokens, end=-1)
        started = time.perf_counter()
        # No inference mode here: its own thread enters it, and fails on what this one allocates.
        outputs = model.generate_batch(
            workload.prompts,
            generation_config=config,
            continuous_batching_config=settings,
            progress_bar=False,
        )
        seconds = time.perf_counter() - started
        return Run([list(o.generated_tokens) for o in outputs.values()], seconds, new_tokens)

    return System(
        "transformers_generate_batch", run, f"sdpa, {settings.num_blocks} pages of {PAGE}"
    )


def reference_logits(model: str, sequences: list[list[int]]) -> torch.Tensor:
    """Logits that follow each sequence, [sequences, vocabulary] float32, without any cache."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, use_safetensors=True)
    loaded.eval()
    with torch.inference_mode():
        rows = [loaded(torch.tensor([s]), logits_to_keep=1).logits[0, -1] for s in sequences]
    return torch.stack(rows)


def _load(workload: Workload) -> transformers.PreTrainedModel:
    torch.set_num_threads(workload.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        workload.model, dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True
    )
    return model.eval()


def _greedy(new_tokens: int, end: int | None) -> GenerationConfig:
    """Set on the model too, whose own settings fill in whatever is None."""
    return GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=end, pad_token_id=0
    )
