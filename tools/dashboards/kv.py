"""KV blocks, budgets and what policies evict."""

from tools.dashboards.panels import Dashboard, Panel, Query, quantiles, rate, ratio, split, total

POOL = (
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
        "Promised and shared blocks",
        "Promised: not taken yet, and kept for outputs with a budget. Shared: places in block "
        "tables that cost no block of their own.",
        "short",
        (
            Query(total("sluice_kv_blocks_promised"), "promised"),
            Query(total("sluice_kv_blocks_shared"), "shared"),
        ),
    ),
    Panel(
        "KV tokens held", "Elastic: above the floors, so pressure could take them.", "short",
        (
            Query(total("sluice_kv_tokens_resident"), "held"),
            Query(total("sluice_kv_tokens_elastic"), "of these elastic"),
        ),
    ),
    Panel(
        "Outputs running, by budget", "Budgets up to each power of two; none: the whole cache.",
        "short",
        (Query(total("sluice_kv_budget_running", "budget"), "{{budget}}"),), stacked=True,
    ),
    Panel(
        "KV tokens held, by budget", "The same classes.", "short",
        (Query(total("sluice_kv_budget_tokens", "budget"), "{{budget}}"),), stacked=True,
    ),
    Panel(
        "Blocks in tables, by budget", "A shared block counts for each output.", "short",
        (Query(total("sluice_kv_budget_blocks", "budget"), "{{budget}}"),), stacked=True,
    ),
)  # fmt: skip
EVICTION = (
    Panel(
        "KV tokens evicted per second", "By policy.", "short",
        (split("sluice_kv_tokens_evicted_total", "policy", "no eviction"),), stacked=True,
    ),
    Panel(
        "Eviction rounds per second", "By policy; one output, one step.", "short",
        (split("sluice_kv_evictions_total", "policy", "no eviction"),), stacked=True,
    ),
    Panel(
        "Share of step time spent on evictions",
        "Of policies of whole blocks there is nothing to move, so nothing to see.", "percentunit",
        (
            Query(
                ratio(
                    rate("sluice_eviction_duration_seconds_sum"),
                    rate("sluice_step_duration_seconds_sum"),
                ),
                "evictions",
            ),
        ),
    ),
    Panel(
        "Pressure on elastic budgets", "Tokens per second evicted for want of blocks.", "short",
        (Query(rate("sluice_kv_tokens_pressed_total"), "pressed"),),
    ),
    Panel(
        "Preemptions per second", "Outputs without a budget that lost their blocks.", "short",
        (Query(rate("sluice_num_preemptions_total"), "preempted"),),
    ),
    Panel(
        "Prefix cache hits", "Share of prompt tokens that need not be computed.", "percentunit",
        (
            Query(
                ratio(
                    rate("sluice_prompt_tokens_cached_total"), rate("sluice_prompt_tokens_total")
                ),
                "cached",
            ),
        ),
        most=1,
    ),
)  # fmt: skip
REQUESTS = (
    Panel(
        "Requests accepted per second", "By policy; none: the whole cache.", "short",
        (split("sluice_requests_accepted_total", "policy", "no request"),), 6, stacked=True,
    ),
    Panel(
        "Budgets granted", "KV tokens; of requests that have one.", "short",
        quantiles("sluice_request_kv_budget_tokens", 0.1, 0.5, 0.9), 6,
    ),
    Panel(
        "Peak KV tokens", "The most that an output held.", "short",
        quantiles("sluice_request_kv_peak_tokens", 0.1, 0.5, 0.9), 6,
    ),
    Panel(
        "Compression", "KV tokens computed over the peak held; 1 is the whole cache.", "short",
        quantiles("sluice_request_kv_compression_ratio", 0.1, 0.5, 0.9), 6,
    ),
)  # fmt: skip
KV = Dashboard(
    "sluice-kv", "Sluice: KV and budgets", "Who holds what, and what goes.",
    POOL + EVICTION + REQUESTS,
)  # fmt: skip
