"""transformers' own continuous batching on the same model, as `generate_batch` runs it."""

import time
from dataclasses import dataclass
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

PAGE = 256  # tokens, what transformers' cache is cut into by default
PATIENCE = 30.0  # seconds until every request has its first token


@dataclass(frozen=True)
class Peer:
    """What came of it."""

    running: int
    tokens: int  # delivered while timed
    seconds: float
    held: float  # tokens per request, mean over the time

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def decode(model: Any, prompts: list[list[int]], kv_tokens: int, seconds: float) -> Peer:
    """Delivered tokens per second once every request decodes.

    Requests stream and are cancelled at the end of the time, which `generate_batch` cannot do; its
    manager is the same. Its attention is "sdpa", or flash attention where that is installed.

    Args:
        model: a stock model with "sdpa" attention.
        prompts: one per request.
        kv_tokens: what its cache may hold, as large as the pool it is compared with.
        seconds: to count for.

    Raises:
        RuntimeError: a request failed, or not all decode after PATIENCE seconds.
    """
    generation = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=-1, pad_token_id=0
    )
    settings = ContinuousBatchingConfig(
        num_blocks=max(kv_tokens // PAGE, len(prompts)), max_batch_tokens=max(1024, len(prompts))
    )
    longest = model.config.max_position_embeddings - max(map(len, prompts))
    with model.continuous_batching_context_manager(
        generation_config=generation, continuous_batching_config=settings, timeout=10.0
    ) as manager:
        names = manager.add_requests(prompts, max_new_tokens=longest, streaming=True)
        try:
            return _count(manager, len(prompts[0]), len(names), seconds)
        finally:
            for name in names:
                manager.cancel_request(name)


def _count(manager: Any, prompt: int, requests: int, seconds: float) -> Peer:
    delivered: dict[str, int] = {}  # tokens by request
    _collect(manager, delivered, requests, time.perf_counter() + PATIENCE)
    if len(delivered) < requests:
        raise RuntimeError(
            f"{len(delivered)} of {requests} requests decode after {PATIENCE:.0f} s; give fewer"
        )
    before, started = sum(delivered.values()), time.perf_counter()
    _collect(manager, delivered, requests + 1, started + seconds)
    after = sum(delivered.values())
    return Peer(
        running=requests,
        tokens=after - before,
        seconds=time.perf_counter() - started,
        held=prompt + (before + after) / 2 / requests,
    )


def _collect(manager: Any, delivered: dict[str, int], enough: int, end: float) -> None:
    """Counts what is delivered until `enough` requests have tokens, or until the end."""
    while len(delivered) < enough and time.perf_counter() < end:
        result = manager.get_result(timeout=0.1)
        if result is None:
            if not manager.is_running():
                raise RuntimeError("transformers' generation thread ended")
            continue
        if result.error is not None:
            raise RuntimeError(f"transformers failed a request: {result.error}")
        if result.generated_tokens:
            delivered[result.request_id] = len(result.generated_tokens)
