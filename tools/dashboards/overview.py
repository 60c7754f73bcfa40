"""The page to look at first: is it up, how fast, how full, how late."""

from tools.dashboards.panels import (
    Dashboard,
    Panel,
    Query,
    least,
    quantiles,
    rate,
    split,
    total,
    worst,
)

STATS = (
    Panel(
        "New tokens per second", "What the server measured over the last 5 seconds.", "short",
        (Query(total("sluice_generation_tokens_per_second"), "tokens/s"),), 4, "stat",
    ),
    Panel(
        "Outputs running", "In the batch now.", "short",
        (Query(total("sluice_num_requests_running"), "running"),), 4, "stat",
    ),
    Panel(
        "Outputs waiting", "In the queue now.", "short",
        (Query(total("sluice_num_requests_waiting"), "waiting"),), 4, "stat",
    ),
    Panel(
        "KV pool held", "Share of the fullest replica's blocks that live outputs hold.",
        "percentunit", (Query(worst("sluice_kv_cache_usage_perc"), "held"),), 4, "stat", most=1,
    ),
    Panel(
        "Engine", "1: every replica's engine serves.", "short",
        (Query(least("sluice_engine_up"), "up"),), 4, "stat", bad_below=1,
    ),
    Panel(
        "Leaked blocks", "Anything but 0 is a defect; see the runbook.", "short",
        (Query(worst("sluice_kv_blocks_leaked"), "leaked"),), 4, "stat", bad_above=0,
    ),
)  # fmt: skip
OVER_TIME = (
    Panel(
        "Tokens per second", "New tokens, and prompt tokens as their outputs begin to answer.",
        "short",
        (
            Query(rate("sluice_generation_tokens_total"), "new"),
            Query(rate("sluice_prompt_tokens_total"), "prompt"),
            Query(rate("sluice_prompt_tokens_cached_total"), "prompt, from the prefix cache"),
        ),
    ),
    Panel(
        "Outputs that ended per second", "By reason; stop and length are answers.", "short",
        (Query(rate("sluice_request_success_total", "finished_reason"), "{{finished_reason}}"),),
        stacked=True,
    ),
    Panel(
        "Outputs running and waiting", "Sums over the replicas.", "short",
        (
            Query(total("sluice_num_requests_running"), "running"),
            Query(total("sluice_num_requests_waiting"), "waiting"),
        ),
    ),
    Panel(
        "Outputs waiting, by reason", "kv_blocks: the pool is full. max_running: the batch is.",
        "short",
        (Query(total("sluice_num_requests_waiting_by_reason", "reason"), "{{reason}}"),),
        stacked=True,
    ),
    Panel(
        "KV pool", "Blocks: held by outputs, kept for the prefix cache, free.", "short",
        (
            Query(total("sluice_kv_blocks_used"), "held"),
            Query(total("sluice_kv_blocks_cached"), "prefix cache"),
            Query(total("sluice_kv_blocks_free"), "free"),
        ),
        stacked=True,
    ),
    Panel(
        "KV tokens evicted per second", "By policy; 0 where no budget is reached.", "short",
        (split("sluice_kv_tokens_evicted_total", "policy", "no eviction"),),
        stacked=True,
    ),
    Panel(
        "Time to first token", "From arrival; includes the queue.", "s",
        quantiles("sluice_time_to_first_token_seconds", 0.5, 0.9, 0.99),
    ),
    Panel(
        "Time between tokens", "Of one output.", "s",
        quantiles("sluice_inter_token_latency_seconds", 0.5, 0.9, 0.99),
    ),
    Panel(
        "Request time", "From arrival to the end of the stream.", "s",
        quantiles("sluice_e2e_request_latency_seconds", 0.5, 0.9, 0.99),
    ),
)  # fmt: skip
OVERVIEW = Dashboard(
    "sluice-overview", "Sluice: overview", "Up, fast, full, late?", STATS + OVER_TIME
)
