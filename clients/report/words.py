"""What a report says about its numbers: caption, how they were measured, what they do not show."""

from collections.abc import Sequence

from clients.report.numbers import Summary, policies_of, tasks_of
from clients.sweep.run import Manifest, ServerFacts
from clients.workloads.pocket import FAMILIES

SYNTHETIC = (
    "Synthetic tasks, trained and tested on one generator (with other seed digits): the curves "
    "validate the eviction path and rank policies on look-ups. They are no claim about mathematics."
)


def caption(summaries: Sequence[Summary], manifest: Manifest) -> str:
    """Under the figure of one model: what is drawn, n, the error bars, and what not to conclude."""
    server = manifest.servers[summaries[0].model]
    shown = policies_of(summaries)
    sentences = [
        f"Bars: mean Pass@1 of {_count(summaries)} per cell, {_decoding(manifest)}; error bars: "
        "one standard error, clustered by problem.",
        f"Line{f' ({shown[0]})' if len(shown) > 1 else ''}: tokens of complete answers divided by "
        "the wall clock of the cell, evictions and queueing included, "
        f"{manifest.settings.concurrency} requests in flight, {_pool(server)}.",
    ]
    if any(s.budget is not None and s.share_never_reached for s in summaries):
        sentences.append(
            "Black line: share of problems whose answer was over before the budget was reached, "
            "which any policy gets for nothing."
        )
    if preempted := sum(s.preemptions for s in summaries if s.budget is None):
        sentences.append(
            "A budget reserves its peak at the start; the whole cache takes blocks as answers grow "
            f"and was preempted {preempted} times where none was left."
        )
    sentences += notes(summaries)
    return " ".join(sentences)


def notes(summaries: Sequence[Summary]) -> list[str]:
    """What a reader should not conclude."""
    found = []
    if any(task in FAMILIES for task in tasks_of(summaries)):
        found.append(SYNTHETIC)
    if resumed := sum(s.segments > 1 for s in summaries):
        found.append(
            f"{resumed} cells were interrupted and resumed: tokens of answers that were cut off "
            "are not counted, so their throughput may be understated."
        )
    if errors := sum(s.errors for s in summaries):
        found.append(f"{errors} requests failed; they are in no Pass@1 (see the rows).")
    return found


def method(summaries: Sequence[Summary], manifest: Manifest) -> list[tuple[str, str]]:
    """How it was measured, as (what, how)."""
    settings, environment = manifest.settings, manifest.environment
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    limit = "the server's limit" if settings.max_tokens is None else f"{settings.max_tokens}"
    facts = [
        ("run", f"{manifest.run}, started {manifest.created}"),
        ("problems", f"{_count(summaries)} per cell; {', '.join(tasks_of(summaries))}"),
        ("decoding", f"{_decoding(manifest)}, at most {limit} new tokens, seed {settings.seed}"),
        (
            "cells",
            "one after the other, each alone on the server, after a warm-up; "
            f"{settings.concurrency} requests in flight; no prompt cache shared between cells",
        ),
        (
            "scoring",
            "last \\boxed{} after thinking, compared as text and as exact number; truncated and "
            "missing answers count as wrong and are listed",
        ),
        (
            "throughput",
            "tokens of complete answers / wall clock from the first request sent to the last "
            "answer received, through gRPC, with the end of a cell, when fewer requests run",
        ),
        ("hardware", f"{environment.cpu}, {environment.cores} cores, {environment.system}"),
        ("versions", f"Python {environment.python}, {packages}"),
    ]
    facts += [(f"server of {model}", _server(facts)) for model, facts in manifest.servers.items()]
    return facts


def protection(summaries: Sequence[Summary]) -> list[tuple[str, int, int, int, int]]:
    """What is never evicted: (policy, budget, pinned, recent, reclaim), each pair once."""
    found = {
        (s.policy, s.budget): (round(s.pinned_tokens or 0), s.recent_tokens, s.reclaim_tokens)
        for s in summaries
        if s.policy is not None and s.budget is not None and s.n
    }
    return [(policy, budget, *tokens) for (policy, budget), tokens in found.items()]


def _count(summaries: Sequence[Summary]) -> str:
    counts = sorted({s.n for s in summaries})
    problems = sorted({s.problems for s in summaries})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if counts == problems:
        return f"n = {n} problems"
    of = str(problems[0]) if len(problems) == 1 else f"{problems[0]} to {problems[-1]}"
    return f"n = {n} answers to {of} problems"


def _decoding(manifest: Manifest) -> str:
    settings = manifest.settings
    if settings.temperature == 0:
        return "greedy decoding"
    parts = {"temperature": settings.temperature, "top-p": settings.top_p, "top-k": settings.top_k}
    given = [f"{name} {value:g}" for name, value in parts.items() if value is not None]
    return ", ".join(given) if given else "sampling at the server's defaults"


def _pool(server: ServerFacts) -> str:
    return f"a KV pool of {server.total_blocks} blocks of {server.block_size} tokens"


def _server(facts: ServerFacts) -> str:
    memory = facts.total_blocks * facts.block_size * facts.kv_bytes_per_token / 2**20
    return (
        f"{facts.architecture}, {facts.dtype} on {facts.device}, {facts.kernels} kernels, "
        f"{_pool(facts)} ({memory:,.1f} MiB), at most {facts.max_running} outputs at once, "
        f"default policy {facts.default_policy}, "
        f"{'chat template' if facts.chat else 'plain text input'}"
    )
