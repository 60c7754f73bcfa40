"""The names, meanings and buckets of the metrics; docs/operations.md lists them.

Suffixes are vLLM's where the meaning is the same. Buckets end beyond half an hour: reasoning
models take their time.
"""

from dataclasses import dataclass


def seconds(least: float, most: float) -> tuple[float, ...]:
    """Seven bounds a decade, at most 1.5 times the one before: a percentile is drawn within one."""
    bounds = (
        float(f"{digits}e{power}") for power in range(-5, 5) for digits in (1, 1.5, 2, 3, 4, 5, 7.5)
    )
    return tuple(bound for bound in bounds if least <= bound <= most)


def counts(most: int) -> tuple[int, ...]:
    """1 to 8, then four bounds for each doubling."""
    doublings = (2**power * quarters // 4 for power in range(3, 20) for quarters in (5, 6, 7, 8))
    return (*range(1, 9), *(bound for bound in doublings if bound <= most))


TOKEN_SECONDS = seconds(1e-4, 100)
REQUEST_SECONDS = seconds(5e-4, 10000)
TOKENS = counts(131072)
OUTPUTS = counts(1024)
RATIOS = (0.99, *(1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64))
"""None is below 1; the first bound keeps a ratio of 1 from being drawn as something less."""

GAUGES = (  # name, help, field of Load
    ("num_requests_running", "Outputs being prefilled or decoded.", "running"),
    ("num_requests_waiting", "Outputs in the queue.", "waiting"),
    ("kv_blocks_used", "KV blocks held by sequences.", "blocks_used"),
    ("kv_blocks_free", "KV blocks that hold nothing.", "blocks_free"),
    ("kv_blocks_cached", "KV blocks kept only for the prefix cache.", "blocks_cached"),
    ("kv_blocks_promised", "KV blocks promised and not yet taken.", "blocks_promised"),
    (
        "kv_blocks_shared",
        "Places in block tables beyond the first of their block.",
        "blocks_shared",
    ),
    ("kv_tokens_resident", "KV tokens held by sequences.", "tokens_resident"),
    ("kv_tokens_elastic", "KV tokens that pressure could still take.", "tokens_elastic"),
)
GAUGES_BY_BUDGET = (  # name, help, field of BudgetClass
    ("kv_budget_running", "Outputs that run, by size of their KV budget.", "running"),
    ("kv_budget_waiting", "Outputs that wait, by size of their KV budget.", "waiting"),
    ("kv_budget_blocks", "Places in block tables, by size of the KV budget.", "blocks"),
    ("kv_budget_tokens", "KV tokens held, by size of the KV budget.", "tokens"),
)
COUNTERS = (
    ("generation_tokens", "New tokens.", "generation_tokens_total"),
    (
        "prompt_tokens",
        "Prompt tokens of outputs that had a first token, cached ones included.",
        "prompt_tokens_total",
    ),
    ("prompt_tokens_cached", "Prompt tokens from the prefix cache.", "cached_prompt_tokens_total"),
    ("num_preemptions", "Outputs that lost their KV blocks.", "preemptions_total"),
    ("kv_tokens_pressed", "KV tokens evicted for want of blocks.", "tokens_pressed_total"),
    ("ignored_events", "Messages for requests that were over.", "ignored_events_total"),
    ("steps_failed", "Engine steps that failed; their requests were lost.", "steps_failed_total"),
)
COUNTERS_BY_POLICY = (
    ("kv_tokens_evicted", "KV tokens evicted.", "tokens_evicted_total"),
    ("kv_evictions", "Eviction rounds.", "eviction_rounds_total"),
)


@dataclass(frozen=True)
class HistogramSpec:
    """What a histogram observes, and its upper bounds."""

    text: str
    bounds: tuple[float, ...]


HISTOGRAMS = {
    "time_to_first_token_seconds": HistogramSpec(
        "From the arrival of a request to its first token.", REQUEST_SECONDS
    ),
    "inter_token_latency_seconds": HistogramSpec("Between two tokens of an output.", TOKEN_SECONDS),
    "request_time_per_output_token_seconds": HistogramSpec(
        "Mean time between the tokens of an output that ended.", TOKEN_SECONDS
    ),
    "e2e_request_latency_seconds": HistogramSpec(
        "From the arrival of a request to the end of its stream.", REQUEST_SECONDS
    ),
    "request_queue_time_seconds": HistogramSpec(
        "From the arrival of an output to its first step, or to its end in the queue.",
        REQUEST_SECONDS,
    ),
    "request_prefill_time_seconds": HistogramSpec(
        "From an output's first step to its first token.", REQUEST_SECONDS
    ),
    "request_decode_time_seconds": HistogramSpec(
        "From an output's first token to its last.", REQUEST_SECONDS
    ),
    "request_prompt_tokens": HistogramSpec("Prompt tokens of an output that ended.", TOKENS),
    "request_generation_tokens": HistogramSpec("New tokens of an output that ended.", TOKENS),
    "request_kv_budget_tokens": HistogramSpec(
        "KV budget of an accepted request; one without a budget is not observed.", TOKENS
    ),
    "request_kv_peak_tokens": HistogramSpec("Most KV tokens that an output held at once.", TOKENS),
    "request_kv_compression_ratio": HistogramSpec(
        "KV tokens that an output computed, over the most it held at once; 1 is no eviction.",
        RATIOS,
    ),
    "eviction_duration_seconds": HistogramSpec(
        "Evictions of one engine step, where there were any.", TOKEN_SECONDS
    ),
    "batch_size": HistogramSpec("Outputs in an engine step.", OUTPUTS),
    "iteration_tokens": HistogramSpec("Tokens in an engine step.", TOKENS),
}
PHASES = ("prefill", "decode", "mixed")
STEP_SECONDS = HistogramSpec(
    "Engine steps, evictions included, by whether they compute prompts, next tokens or both.",
    TOKEN_SECONDS,
)
