"""`sluice load`: many requests at a set rate or concurrency, and what their latencies were."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from cli.failures import INTERRUPTED, USAGE, fail, one_line_errors
from cli.options import DATASETS_HELP, DEFAULT_SERVER, Timeout, names, option
from cli.terminal import wide_console
from clients.errors import LoadError
from clients.load.arrivals import Arrivals, ClosedLoop, Rate, read_trace
from clients.load.directory import PAGE, ROWS, check_free
from clients.load.lengths import SHAPES, parse_length
from clients.load.mix import parse_mix
from clients.load.plan import Plan
from clients.load.slo import parse_slos
from clients.workloads import prompts
from clients.workloads.catalogue import choose

Server = Annotated[str, typer.Option(help="host:port of the service.")]
Out = Annotated[Path | None, option("New directory; default: one in runs/.")]
PerSecond = Annotated[float | None, option("Open loop: requests per second.")]
Process = Annotated[Literal["poisson", "constant"], typer.Option(help="With --rate.")]
Burstiness = Annotated[
    float, typer.Option(help="1 is Poisson; less comes in bursts, more is steadier (gamma).")
]
TraceFile = Annotated[
    Path | None,
    option("Open loop: JSONL with timestamp (s), input_length, output_length, budget, policy."),
]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Closed loop: requests in flight.")]
Cap = Annotated[
    int | None, typer.Option(min=1, help="Of an open loop; more wait in the client, and it shows.")
]
Duration = Annotated[float | None, option("Seconds to measure, after the warm-up.")]
Requests = Annotated[int | None, option("Requests to measure; the first limit ends the run.")]
WarmUp = Annotated[float, typer.Option(help="Seconds of the same load, uncounted, before.")]
WarmUpRequests = Annotated[int, typer.Option(min=0, help="The same as a number of requests.")]
Drain = Annotated[float | None, option("Longest wait for requests in flight at the end; 0: none.")]
PromptTokens = Annotated[str, typer.Option(help=f"Length: {SHAPES}.")]
OutputTokens = Annotated[str, typer.Option(help="The same; the most, where answers may stop.")]
PrefixTokens = Annotated[int, typer.Option(min=0, help="Start of all random prompts, the same.")]
Datasets = Annotated[str | None, option(f"Real prompts, not random token ids: {DATASETS_HELP}")]
Mix = Annotated[
    list[str] | None,
    option("budget=TOKENS or full, policy=, floor=TOKENS, weight=NUMBER; repeat for a mix."),
]
IgnoreEos = Annotated[bool | None, option("Go on after end tokens; default: random prompts do.",
                                          "--ignore-eos/--no-ignore-eos")]  # fmt: skip
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
Interval = Annotated[int | None, option("Least new tokens per message; more is cheaper.")]
Objective = Annotated[list[str] | None, option("ttft:MS, tpot:MS or e2e:MS; repeat. See goodput.")]
Percentiles = Annotated[str, typer.Option(help="With commas.")]
Seed = Annotated[int, typer.Option(min=0, help="Of arrivals, lengths, mix and prompts.")]


def load(  # noqa: PLR0913 - the signature is the command line
    server: Server = DEFAULT_SERVER,
    rate: PerSecond = None,
    arrivals: Process = "poisson",
    burstiness: Burstiness = 1.0,
    trace: TraceFile = None,
    concurrency: Concurrency = None,
    max_concurrency: Cap = None,
    duration: Duration = None,
    requests: Requests = None,
    warm_up: WarmUp = Plan.warm_up,
    warm_up_requests: WarmUpRequests = Plan.warm_up_requests,
    drain_seconds: Drain = None,
    prompt_tokens: PromptTokens = str(Plan.prompt_tokens),
    output_tokens: OutputTokens = str(Plan.output_tokens),
    prefix_tokens: PrefixTokens = Plan.prefix_tokens,
    datasets: Datasets = None,
    mix: Mix = None,
    ignore_eos: IgnoreEos = None,
    temperature: Temperature = 0.0,
    stream_interval: Interval = None,
    slo: Objective = None,
    percentiles: Percentiles = "90,99",
    timeout: Timeout = None,
    seed: Seed = Plan.seed,
    out: Out = None,
) -> None:
    """Offer a load and measure TTFT, TPOT, ITL, E2E, throughput and goodput.

    Give one of --rate, --trace and --concurrency, and an end: --duration or --requests. Failed
    requests are counted, never sent again. Ends with 1 if none succeeded, with 130 after Ctrl-C;
    what was measured is written in both cases.
    """
    out = out or Path("runs") / datetime.now().strftime("load-%Y%m%d-%H%M%S")
    with one_line_errors(USAGE):
        plan = Plan(
            _arrivals(rate, arrivals, burstiness, trace, concurrency), duration=duration,
            requests=requests, warm_up=warm_up, warm_up_requests=warm_up_requests,
            max_concurrency=max_concurrency, drain_seconds=drain_seconds,
            prompt_tokens=parse_length(prompt_tokens), output_tokens=parse_length(output_tokens),
            prefix_tokens=prefix_tokens, prompts=_prompts(datasets, seed), mix=parse_mix(mix or ()),
            ignore_eos=datasets is None if ignore_eos is None else ignore_eos,
            temperature=temperature, stream_interval=stream_interval, request_seconds=timeout,
            seed=seed, slos=parse_slos(slo or ()), percentiles=_percentiles(percentiles),
        )  # fmt: skip
        plan.check()
        check_free(out)
    _run(server, plan, out)


def _run(server: str, plan: Plan, out: Path) -> None:
    from clients.load import table, words  # here, because they need numpy and --help does not
    from clients.load.session import measure

    with one_line_errors():
        result, summary = measure(server, plan, out, Console(stderr=True))
    table.show(summary, plan, words.notes(result, summary), wide_console())
    typer.echo(f"report: {out / PAGE}", err=True)
    if result.interrupted:
        fail("interrupted; the files have what was measured until then", INTERRUPTED)
    if not summary.completed:
        fail(f"no request succeeded; {out / ROWS} says why")


def _arrivals(
    rate: float | None,
    process: str,
    burstiness: float,
    trace: Path | None,
    concurrency: int | None,
) -> Arrivals:
    given = [value for value in (rate, trace, concurrency) if value is not None]
    if len(given) != 1:
        raise LoadError(
            "give one of --rate PER_SECOND (open loop), --trace FILE (open loop) and "
            "--concurrency N (closed loop)"
        )
    if concurrency is not None:
        return ClosedLoop(concurrency)
    if trace is not None:
        return read_trace(trace)
    assert rate is not None
    if process == "constant" and burstiness != 1.0:
        raise LoadError("--burstiness is for --arrivals poisson; constant arrivals have none")
    return Rate(rate, burstiness if process == "poisson" else None)


def _prompts(datasets: str | None, seed: int) -> tuple[str, ...]:
    """What a sweep would ask, as one text each."""
    if datasets is None:
        return ()
    chosen = choose(names(datasets), None, seed)
    asked = (
        prompts.messages(problem, prompts.DEFAULT) for own in chosen.values() for problem in own
    )
    return tuple("\n\n".join(message.content for message in turns) for turns in asked)


def _percentiles(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < p < 100 for p in found) or len(set(found)) < len(found):
        raise LoadError(
            f"got --percentiles {text!r}; want numbers over 0 and under 100, with commas"
        )
    return found
