"""What a load test says about itself: what was offered, how it was measured, what to doubt."""

from clients.environment import Environment
from clients.load.arrivals import ClosedLoop, Rate
from clients.load.numbers import Summary
from clients.load.plan import Plan
from clients.load.runner import Result
from clients.load.series import falls_behind
from clients.sweep.run import ServerFacts


def offered(plan: Plan) -> str:
    """The arrivals in one line."""
    arrivals = plan.arrivals
    if isinstance(arrivals, ClosedLoop):
        return f"closed loop, {arrivals.concurrency} requests in flight"
    cap = "" if plan.max_concurrency is None else f", at most {plan.max_concurrency} in flight"
    if isinstance(arrivals, Rate):
        process = "constant" if arrivals.burstiness is None else "Poisson"
        if arrivals.burstiness not in (None, 1.0):
            process = f"gamma with burstiness {arrivals.burstiness:g}"
        return f"open loop, {arrivals.per_second:g} requests/s, {process} arrivals{cap}"
    return f"open loop, {len(arrivals.calls)} requests at the times of {arrivals.name}{cap}"


def asked(plan: Plan) -> str:
    """Prompts and answers in one line."""
    prefix = f", the first {plan.prefix_tokens} the same" if plan.prefix_tokens else ""
    prompts = f"random prompts of {plan.prompt_tokens} tokens{prefix}"
    if plan.prompts:
        prompts = f"{len(plan.prompts)} real prompts in turn"
    most, ends = ("", " that do not stop early") if plan.ignore_eos else ("at most ", "")
    return f"{prompts}; answers of {most}{plan.output_tokens} tokens{ends}"


def notes(result: Result, summary: Summary) -> list[str]:
    """What a reader must know before believing the numbers; the client's own limits first."""
    found = []
    if complaints := summary.client.complaints:
        what, advice = "adds to what it measures", "Latencies include it."
        if summary.client.bottleneck:
            what = "is the bottleneck"
            advice = (
                "Latencies include it and throughput may be the client's own; use a longer "
                "--stream-interval, a lower rate, or several clients."
            )
        found.append(f"WARNING: the client {what}: {'; '.join(complaints)}. {advice}")
    if result.interrupted:
        found.append("Interrupted: these are the numbers until then.")
    if summary.failed:
        kinds = ", ".join(f"{count} {status}" for status, count in summary.errors.items())
        first = next(row.error for row in result.rows if row.counted and row.failed)
        found.append(f"{_requests(summary.failed)} failed ({kinds}); the first: {first}")
    if summary.cut:
        found.append(
            f"{_requests(summary.cut)} cut off at the end and in no latency, which makes latencies "
            "look better than they are."
        )
    if result.cut_lengths:
        found.append(f"{result.cut_lengths} lengths were cut to what the model takes.")
    if falls_behind(result):
        found.append(
            f"Requests came faster than answers ended ({summary.request_throughput or 0:.2f} per "
            "second): the backlog grows, and latencies depend on how long the run is."
        )
    return found


def method(
    result: Result, server: ServerFacts, environment: Environment, created: str
) -> list[tuple[str, str]]:
    """How it was measured, as (what, how)."""
    plan, (start, end) = result.plan, result.window
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    drain = "until they end" if plan.drain_seconds is None else f"{plan.drain_seconds:g} s"
    return [
        ("started", created),
        ("arrivals", offered(plan)),
        ("requests", f"{asked(plan)}; seed {plan.seed}"),
        ("mix", "; ".join(f"{share.label} (weight {share.weight:g})" for share in plan.mix)),
        (
            "window",
            f"{start:.1f} s to {end:.1f} s; before it the warm-up, the same load uncounted, with "
            f"no drain between; requests in flight at the end are waited for {drain}",
        ),
        (
            "latencies",
            "of requests scheduled within the window, from the scheduled time (closed loop: from "
            "the moment the slot was free); TPOT (E2E - TTFT) / (tokens - 1); ITL the gap between "
            "chunks over the tokens of the later one",
        ),
        ("throughput", "what arrived within the window over its length, of whatever request"),
        (
            "server",
            f"{server.model}, {server.architecture}, {server.dtype} on {server.device}, "
            f"{server.kernels} kernels, {server.total_blocks} blocks of {server.block_size} "
            f"tokens, at most {server.max_running} outputs at once, default policy "
            f"{server.default_policy}",
        ),
        ("client", f"{environment.cpu}, {environment.cores} cores, {environment.system}"),
        ("versions", f"Python {environment.python}, {packages}"),
    ]


def _requests(count: int) -> str:
    return f"{count:,} request{'' if count == 1 else 's'}"
