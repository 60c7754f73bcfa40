"""What a report says about its numbers: how they were measured, what they do not show."""

from collections.abc import Iterable, Sequence

import msgspec

from clients.report.numbers import Summary, summarise, tasks_of
from clients.report.sources import Source, of_model
from clients.sweep.plan import Settings
from clients.sweep.run import ServerFacts
from clients.workloads.pocket import FAMILIES

SYNTHETIC = (
    "Synthetic tasks, trained and tested on one generator (with other seed digits): the curves "
    "validate the eviction path and rank policies on look-ups. They are no claim about mathematics."
)


def notes(summaries: Sequence[Summary]) -> list[str]:
    """What a reader should not conclude."""
    found = synthetic(tasks_of(summaries))
    if resumed := sum(s.segments > 1 for s in summaries):
        found.append(
            f"{resumed} cells were measured in parts (interrupted and resumed, or in several "
            "runs): tokens of answers that were cut off are not counted, so their throughput may "
            "be understated."
        )
    if unscored := sum(s.unscored for s in summaries):
        found.append(
            f"{unscored} answers could not be scored (comparing took too long or broke down); they "
            "are in no score, neither right nor wrong, and shown as unscored."
        )
    if errors := sum(s.errors for s in summaries):
        found.append(f"{errors} requests failed; they are in no Pass@1 (see the rows).")
    return found


def synthetic(tasks: Iterable[str]) -> list[str]:
    """The note on tasks of our own making, where there are any."""
    return [SYNTHETIC] if any(task in FAMILIES for task in tasks) else []


def disagreements(sources: Sequence[Source]) -> list[str]:
    """Where the runs of one model were not measured alike, so that they are no fair comparison."""
    found = []
    for model in dict.fromkeys(model for source in sources for model in source.models):
        manifests = [source.manifest for source in of_model(sources, model)]
        parts = {
            "settings": {str(manifest.settings) for manifest in manifests},
            "server": {str(manifest.servers.get(model)) for manifest in manifests},
            "machine or versions": {str(manifest.environment) for manifest in manifests},
        }
        if different := [name for name, values in parts.items() if len(values) > 1]:
            found.append(
                f"The runs of {model} differ in {', '.join(different)} (see how it was measured): "
                "differences between their cells need not come from budget or policy."
            )
    return found


def method(source: Source) -> list[tuple[str, str]]:
    """How one run was measured, as (what, how)."""
    manifest, summaries = source.manifest, summarise(source.rows)
    settings, environment = manifest.settings, manifest.environment
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    limit = "the server's limit" if settings.max_tokens is None else f"{settings.max_tokens}"
    given = {
        name: value for name, value in msgspec.to_builtins(settings).items() if value is not None
    }
    facts = [
        ("run", f"{manifest.run}, started {manifest.created}"),
        ("problems", f"{answers(summaries)} per cell; {', '.join(tasks_of(summaries))}"),
        (
            "decoding",
            f"{decoding([source])}, at most {limit} new tokens, seed {settings.seed}",
        ),
        ("settings", ", ".join(f"{name} {value}" for name, value in given.items())),
        (
            "cells",
            "one after the other, each alone on the server, after a warm-up; "
            f"{settings.concurrency} requests in flight; no prompt cache shared between cells",
        ),
        (
            "scoring",
            "the last box after thinking, compared as text, as exact number and by math-verify; "
            "truncated and missing answers count as wrong and are listed; answers that could not "
            "be compared are listed as unscored and are in no score",
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


def answers(summaries: Sequence[Summary]) -> str:
    """How many a cell has: "n = 48 problems", "n = 150 answers (5 to each of 30 problems)"."""
    n, problems = _range(s.n for s in summaries), _range(s.problems for s in summaries)
    if all(s.n == s.problems for s in summaries):
        return f"n = {n} problems"
    if len({s.samples for s in summaries}) == 1 and all(
        s.n == s.samples * s.problems for s in summaries
    ):
        return f"n = {n} answers ({summaries[0].samples} to each of {problems} problems)"
    return f"n = {n} answers to {problems} problems"


def decoding(sources: Sequence[Source]) -> str:
    """How tokens were drawn."""
    return _either(_decoding(source.manifest.settings) for source in sources)


def load(sources: Sequence[Source], model: str) -> str:
    """What the server of a model had to do, and with how much memory."""
    own = of_model(sources, model)
    flight = _either(str(source.manifest.settings.concurrency) for source in own)
    pools = _either(
        _pool(source.manifest.servers[model]) for source in own if model in source.manifest.servers
    )
    return f"{flight} requests in flight, {pools or 'a KV pool of unknown size'}"


def _range(counts: Iterable[int]) -> str:
    found = sorted(set(counts))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _either(texts: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(texts))


def _decoding(settings: Settings) -> str:
    if settings.temperature == 0:
        return "greedy decoding"
    parts = {"temperature": settings.temperature, "top-p": settings.top_p, "top-k": settings.top_k}
    given = [f"{name} {value:g}" for name, value in parts.items() if value is not None]
    return ", ".join(given) if given else "sampling at the server's defaults"


def _pool(server: ServerFacts) -> str:
    return f"a KV pool of {server.total_blocks} blocks of {server.block_size} tokens"


def _server(facts: ServerFacts) -> str:
    memory = facts.total_blocks * facts.block_size * facts.kv_bytes_per_token / 2**20
    several = "" if facts.servers == 1 else f", {facts.servers} such servers"
    return (
        f"{facts.architecture}, {facts.dtype} on {facts.device}, {facts.kernels} kernels, "
        f"{_pool(facts)} ({memory:,.1f} MiB){several}, at most {facts.max_running} outputs at "
        f"once, default policy {facts.default_policy}, "
        f"{'chat template' if facts.chat else 'plain text input'}"
    )
