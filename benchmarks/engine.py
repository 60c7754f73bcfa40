"""This engine against others on one CPU: same model, same requests, same number of threads.

    python -m benchmarks.engine                     against transformers, about two minutes
    python -m benchmarks.engine --vs all            and llama.cpp
    python -m benchmarks.engine --quick --vs all    fewer tokens and runs, under a minute

llama.cpp needs `pip install -e '.[peers]'`, which compiles for some minutes.

One process loads all engines, checks that they draw the same greedy tokens, and lets them run in
turns; medians count. Whole cache, end tokens ignored, prompts included in the time. Appends to
benchmarks/results/engine.jsonl; the last line on stdout is one JSON object, whose ratios are our
tokens per second over theirs.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.agreement import Agreement, Disagreement, compare
from benchmarks.workload import Run, System, Workload
from clients.demo import MODELS_DIRECTORY

PEERS = {  # what --vs takes, and where the function of that name is
    "transformers_generate": "benchmarks.peers.hugging_face",
    "transformers_generate_batch": "benchmarks.peers.hugging_face",
    "llama_cpp": "benchmarks.peers.llama",
}
DEFAULT_PEERS = ["transformers_generate", "transformers_generate_batch"]
Peers = Annotated[list[str], typer.Option(help=f"{', '.join(PEERS)} or all; repeatable")]
QUICK_NEW_TOKENS, QUICK_CHECK, QUICK_REPEATS = 96, 16, 3
QUICK_SLOW = 2.5  # seconds; with --quick, what took longer is measured once


@dataclass
class Measured:
    """One engine and its runs; `agreement` is None where there is nothing to hold it against."""

    system: System
    agreement: Agreement | None = None
    runs: list[Run] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return median(run.tokens_per_second for run in self.runs)

    @property
    def ms_per_step(self) -> float:
        return median(1000 * run.seconds / run.steps for run in self.runs)


def build(workload: Workload, peers: Sequence[str], cap: int | None, policy: str) -> list[System]:
    """Ours, then the peers, then ours under the budget; each with its own copy of the model."""
    from benchmarks.inprocess import sluice, sluice_with_budget

    systems = [sluice(workload)]
    systems += [getattr(import_module(PEERS[name]), name)(workload) for name in peers]
    if cap is not None:
        systems.append(sluice_with_budget(workload, cap, policy))
    return systems


def check(workload: Workload, systems: Sequence[System], new_tokens: int) -> list[Measured]:
    """Runs everything once, not measured, and holds the peers' tokens against ours.

    Raises:
        Disagreement: a peer does not draw our tokens.
    """
    from benchmarks.peers.hugging_face import reference_logits

    measured = []
    ours = systems[0].run(new_tokens).tokens
    for system in systems:
        agreement = None
        if system.name in PEERS:
            agreement = compare(
                system.name,
                workload.prompts,
                ours,
                system.run(new_tokens).tokens,
                lambda sequences: reference_logits(workload.model, sequences),
            )
        elif system is not systems[0]:
            system.run(new_tokens)
        measured.append(Measured(system, agreement))
    return measured


def measure(measured: Sequence[Measured], new_tokens: int, repeats: int, slow: float) -> None:
    """Adds runs in turns: A B C A B C ...; whatever took longer than `slow` seconds runs once."""
    for _ in range(repeats):
        for one in measured:
            if not one.runs or one.runs[0].seconds <= slow:
                one.runs.append(one.system.run(new_tokens))


def rows(workload: Workload, measured: Sequence[Measured], quick: bool) -> list[dict[str, Any]]:
    """What is stored, one row for each engine."""
    ours = measured[0].tokens_per_second
    return [
        {
            "system": one.system.name,
            "settings": one.system.settings,
            "model": Path(workload.model).name,
            "threads": workload.threads,
            "requests": len(workload.prompts),
            "batch": len(workload.prompts),
            "prompt_tokens": workload.prompt_tokens,
            "new_tokens": workload.new_tokens,
            "tokens_per_second": one.tokens_per_second,
            "runs": [run.tokens_per_second for run in one.runs],
            "ms_per_step": one.ms_per_step,
            "ratio": ours / one.tokens_per_second,
            "agreement": one.agreement and asdict(one.agreement),
            "quick": quick,
        }
        for one in measured
    ]


def table(workload: Workload, measured: Sequence[Measured]) -> Table:
    """The rows for people."""
    drawn = Table(
        title=f"{len(workload.prompts)} requests, prompt {workload.prompt_tokens}, "
        f"{workload.new_tokens} new tokens, {workload.threads} threads"
    )
    for name in ("system", "tokens/s", "runs", "ms per step", "ours is", "equal tokens"):
        drawn.add_column(name, justify="left" if name == "system" else "right")
    drawn.add_column("identical requests", justify="right")
    drawn.add_column("settings")
    for one in measured:
        agreed = one.agreement
        drawn.add_row(
            one.system.name,
            f"{one.tokens_per_second:,.0f}",
            " ".join(f"{run.tokens_per_second:,.0f}" for run in one.runs),
            f"{one.ms_per_step:.2f}",
            f"{measured[0].tokens_per_second / one.tokens_per_second:.2f} x",
            f"{agreed.equal_tokens:.1%}" if agreed else "",
            f"{agreed.identical_requests:.1%}" if agreed else "",
            one.system.settings,
        )
    return drawn


def last_line(measured: Sequence[Measured]) -> str:
    """One JSON object: ratios by peer, null where not measured, and everybody's tokens/s."""
    speeds = {one.system.name: one.tokens_per_second for one in measured}
    ratios = {
        f"ratio_{name}": speeds["sluice"] / speeds[name] if name in speeds else None
        for name in PEERS
    }
    return json.dumps({**ratios, "tokens_per_second": speeds})


def chosen_peers(vs: Sequence[str]) -> list[str]:
    """Names of PEERS, each once.

    Raises:
        typer.BadParameter: an unknown name, or an engine that is not installed.
    """
    names = list(PEERS) if "all" in vs else list(dict.fromkeys(vs))
    for name in names:
        if name not in PEERS:
            raise typer.BadParameter(f"--vs is {name!r}; allowed: {', '.join(PEERS)}, all")
    lacking = [name for name in ("llama_cpp", "gguf") if find_spec(name) is None]
    if "llama_cpp" in names and lacking:
        raise typer.BadParameter(
            f"--vs llama_cpp needs {' and '.join(lacking)}, not installed here: "
            "pip install -e '.[peers]'"
        )
    return names


def set_threads(count: int) -> None:
    """Sizes the thread pools of torch and numba, which read this when they are loaded.

    OMP_WAIT_POLICY is left as it is: llama.cpp computes under OpenMP too, and waiting threads that
    sleep cost it more than half of its speed.
    """
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(count)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Count = Annotated[int, typer.Option(min=1)]


def main(  # noqa: PLR0913 - the signature is the command line
    vs: Peers = DEFAULT_PEERS,
    model: Annotated[str, typer.Option(help="directory or hub id")] = str(
        MODELS_DIRECTORY / "pocket-llama"
    ),
    requests: Count = 64,
    prompt: Annotated[int, typer.Option(min=1, help="tokens of each prompt")] = 16,
    new_tokens: Annotated[int | None, typer.Option(min=1, help="256; 96 with --quick")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="of each engine; all cores")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="measured runs of each engine")] = 5,
    budget: Annotated[int | None, typer.Option(min=1, help="ours under it too, tokens")] = None,
    policy: Annotated[str, typer.Option(help="that evicts under --budget")] = "r_kv",
    quick: Annotated[bool, typer.Option("--quick", help="fewer tokens and runs")] = False,
    results_directory: Annotated[Path, typer.Option("--results")] = results.RESULTS,
) -> None:
    """Measures, prints the table, appends the rows."""
    peers = chosen_peers(vs)
    threads = threads or cores()
    set_threads(threads)
    new = new_tokens or (QUICK_NEW_TOKENS if quick else 256)
    from benchmarks.prompts import problem_prompts

    workload = Workload(model, problem_prompts(model, requests, prompt), new, threads)
    console = Console(stderr=True)
    console.print("loading and checking tokens ...", highlight=False)
    try:
        systems = build(workload, peers, budget, policy)
        measured = check(workload, systems, min(new, QUICK_CHECK) if quick else new)
    except Disagreement as error:
        console.print(f"[red]no ratio:[/red] {error}", highlight=False)
        raise typer.Exit(1) from None
    slow = QUICK_SLOW if quick else float("inf")
    console.print("measuring ...", highlight=False)
    measure(measured, new, min(repeats, QUICK_REPEATS) if quick else repeats, slow)
    Console(width=160).print(table(workload, measured))
    results.append("engine", rows(workload, measured, quick), results_directory)
    print(last_line(measured))


if __name__ == "__main__":
    typer.run(main)
