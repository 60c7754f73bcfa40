"""What a load test leaves: load.json, requests.jsonl and load.html."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from clients.environment import Environment, environment
from clients.load import figure, table, words
from clients.load.arrivals import Arrivals, ClosedLoop, Rate
from clients.load.directory import NUMBERS, PAGE, ROWS
from clients.load.numbers import Spread, Summary
from clients.load.record import write
from clients.load.runner import Result
from clients.report import markup
from clients.sweep.run import ServerFacts

FLAT = (  # fields of Summary that load.json has at its top, where `vllm bench` has them
    "duration", "completed", "failed", "total_input_tokens", "total_output_tokens",
    "request_throughput", "request_goodput", "output_throughput", "total_token_throughput",
    "max_output_tokens_per_s", "max_concurrent_requests",
    "scheduled", "cut", "ended", "errors", "warm_up_requests", "slo_shares", "good_share",
)  # fmt: skip


def write_run(
    directory: Path, result: Result, summary: Summary, server: ServerFacts, began: datetime
) -> None:
    """Writes everything; the rows first."""
    machine = environment()
    write(directory / ROWS, result.rows)
    document = numbers(result, summary, server, began, machine)
    data = msgspec.json.format(msgspec.json.encode(document), indent=2)
    (directory / NUMBERS).write_bytes(data + b"\n")
    created = began.isoformat(timespec="seconds")
    facts = words.method(result, server, machine, created)
    text = page(result, summary, server.model, facts)
    (directory / PAGE).write_text(text, encoding="utf-8")


def numbers(
    result: Result, summary: Summary, server: ServerFacts, began: datetime, machine: Environment
) -> dict[str, Any]:
    """load.json: first the names of `vllm bench serve --save-result`, then ours."""
    plan, arrivals = result.plan, result.plan.arrivals
    return {
        "date": began.strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": "sluice",
        "backend": "sluice",
        "label": words.offered(plan),
        "model_id": server.model,
        "tokenizer_id": server.model,
        "num_prompts": summary.scheduled,
        "request_rate": _rate(arrivals),
        "burstiness": (arrivals.burstiness or "inf") if isinstance(arrivals, Rate) else None,
        "max_concurrency": plan.in_flight_limit,
        **{name: getattr(summary, name) for name in FLAT},
        **_flat(summary.latencies),
        "arrivals": type(arrivals).__name__,
        "warnings": words.notes(result, summary),
        "client": summary.client,
        "client_is_late": summary.client.late,
        "client_is_bottleneck": summary.client.bottleneck,
        "interrupted": result.interrupted,
        "window": result.window,
        "seed": plan.seed,
        "requests": words.asked(plan),
        "mix": plan.mix,
        "shares": summary.shares,
        "server": server,
        "server_load": result.server,
        "environment": machine,
    }


def page(result: Result, summary: Summary, model: str, method: Sequence[tuple[str, str]]) -> str:
    """load.html: complete in itself."""
    several = len(summary.shares) > 1
    parts = [
        f"<h1>Load test of {markup.text(model)}</h1>",
        f"<p>{markup.text(f'{words.offered(result.plan)}; {words.asked(result.plan)}')}.</p>",
        *markup.notes(words.notes(result, summary)),
        markup.facts(table.totals(summary)),
        "<h2>Latencies</h2>",
        markup.table(*table.latencies(summary, result.plan)),
        markup.image(figure.distributions(result), "latencies: share of requests within each"),
        *(["<h2>Budgets and policies</h2>"] if several else []),
        *([markup.table(*table.shares(summary.shares, result.plan))] if several else []),
        "<h2>Over time</h2>",
        markup.image(figure.series(result), "tokens, requests, KV pool and TTFT over the run"),
        "<h2>How it was measured</h2>",
        markup.facts(method),
        f"<p>{ROWS} has every moment of every request, {NUMBERS} the numbers above under the names "
        "of <code>vllm bench serve</code>.</p>",
    ]
    return markup.document(f"Sluice load test: {model}", parts)


def _rate(arrivals: Arrivals) -> float | str | None:
    """Per second; what vllm calls a closed loop is "inf" with a limit; a trace has none."""
    match arrivals:
        case Rate(per_second):
            return per_second
        case ClosedLoop():
            return "inf"
    return None


def _flat(latencies: Mapping[str, Spread | None]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, spread in latencies.items():
        for part in ("mean", "median", "std"):
            found[f"{part}_{name}_ms"] = None if spread is None else getattr(spread, part)
        for percent, value in spread.percentiles.items() if spread else ():
            found[f"p{percent}_{name}_ms"] = value
    return found
