"""Where the time of a request goes, and of an engine step."""

from tools.dashboards.panels import Dashboard, Panel, Query, quantile, quantiles, rate

SHARES = (0.5, 0.9, 0.99)
PHASE = "{{phase}}"

REQUESTS = (
    Panel(
        "Time to first token", "From arrival; includes the queue.", "s",
        quantiles("sluice_time_to_first_token_seconds", *SHARES),
    ),
    Panel(
        "Time between tokens", "Of one output, each gap.", "s",
        quantiles("sluice_inter_token_latency_seconds", *SHARES),
    ),
    Panel(
        "Time per output token", "Mean gap of an output, once it ended.", "s",
        quantiles("sluice_request_time_per_output_token_seconds", *SHARES),
    ),
    Panel(
        "Request time", "From arrival to the end of the stream.", "s",
        quantiles("sluice_e2e_request_latency_seconds", *SHARES),
    ),
    Panel(
        "Time in the queue", "From arrival to the first step.", "s",
        quantiles("sluice_request_queue_time_seconds", *SHARES),
    ),
    Panel(
        "Prefill time", "From the first step to the first token.", "s",
        quantiles("sluice_request_prefill_time_seconds", *SHARES),
    ),
    Panel(
        "Decode time", "From the first token to the last.", "s",
        quantiles("sluice_request_decode_time_seconds", *SHARES),
    ),
    Panel(
        "Prompt length", "Tokens, of outputs that ended.", "short",
        quantiles("sluice_request_prompt_tokens", 0.5, 0.9),
    ),
    Panel(
        "Answer length", "Tokens, of outputs that ended.", "short",
        quantiles("sluice_request_generation_tokens", 0.5, 0.9),
    ),
)  # fmt: skip
STEPS = (
    Panel(
        "Step time, median", "Prefill, decode, or both in one step.", "s",
        (Query(quantile(0.5, "sluice_step_duration_seconds", "phase"), PHASE),), 6,
    ),
    Panel(
        "Share of the time in steps", "By phase; the rest the engine is idle.", "percentunit",
        (Query(rate("sluice_step_duration_seconds_sum", "phase"), PHASE),), 6, stacked=True,
    ),
    Panel(
        "Outputs per step", "The batch.", "short", quantiles("sluice_batch_size", 0.5, 0.9), 6,
    ),
    Panel(
        "Tokens per step", "Of decodes and of prompts.", "short",
        quantiles("sluice_iteration_tokens", 0.5, 0.9), 6,
    ),
)  # fmt: skip
LATENCY = Dashboard("sluice-latency", "Sluice: latency", "Where the time goes.", REQUESTS + STEPS)
