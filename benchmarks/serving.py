"""What the service costs over its engine, and what its front process can deliver.

    python -m benchmarks.serving            about 4 minutes on 2 cores
    python -m benchmarks.serving --quick    fewer turns and rates, under a minute

Two measurements, appended to benchmarks/results/serving.jsonl:

`path`: pocket-llama, greedy, all requests at once. Scheduler and runner in this process, against
`sluice serve` with an engine process of its own and the same number of threads. Arms take turns,
medians are reported. This process is the client as well: "light" is benchmarks/load_client.py,
"sdk" is clients.AsyncClient. A message holds one token, in "light 8" eight of them. With 2 cores
and 1 engine thread, front and client share the other core.

`front`: the fake engine ends a step every so many milliseconds, each with a token for every stream
(benchmarks/paced_server.py). The front process is bound to one core; engine and client have the
others. Delivery delay is from the end of the step to the client's read (benchmarks/front_load.py).
Streams share a few connections, as behind a proxy.

The last line on stdout is one JSON object:

    grpc_over_inprocess           tokens per second, light client over in process
    grpc8_over_inprocess          the same with stream_interval 8
    sdk_over_inprocess            the same with the SDK as client
    engine_cpu_over_inprocess     CPU time per token of the engine process over that in process,
                                  light client; other work on the machine disturbs it less
    front_tokens_per_second       the most that was delivered at any rate of steps
    front_tokens_per_cpu_second   tokens per second of the front's CPU time, at the first rate
    front_us_per_token            its inverse, in microseconds
    delivery_p50_ms, delivery_p99_ms  at the first rate
    offered_tokens_per_second     the first rate
    threads, cores                of the engine in `path`; of the machine
"""

import asyncio
import json
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the engine process sets it

from benchmarks import results
from benchmarks.front_load import FrontLoad, measure_front
from benchmarks.load_client import LoadClient
from benchmarks.processes import children, cpu_seconds
from clients.demo import MODELS_DIRECTORY
from clients.local_server import local_servers
from clients.sdk import AsyncClient, Request, Sampling, Stopping, TokenIds, Tokens
from engine.config import EngineConfig, SchedulerConfig
from engine.runner import ModelRunner
from engine.steps import Steps
from scheduler import request as engine_request
from scheduler.scheduler import Scheduler

MODEL = "pocket-llama"
PROMPT = 24  # tokens
CONNECTIONS = 8  # of the light client


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    requests: int
    new_tokens: int  # of each
    turns: int
    fronts: tuple[FrontLoad, ...]
    threads: int = max((os.cpu_count() or 2) // 2, 1)  # of the engine; its default


FULL = Sizes(
    requests=64,
    new_tokens=512,
    turns=5,
    fronts=tuple(FrontLoad(512, period, CONNECTIONS, 10.0) for period in (0.025, 0.02, 0.01)),
)
QUICK = Sizes(
    requests=64,
    new_tokens=96,
    turns=1,
    fronts=(FrontLoad(512, 0.025, CONNECTIONS, 3.0),),
)


def prompts(count: int) -> list[tuple[int, ...]]:
    """Token ids; no two prompts are alike."""
    return [tuple((7 * key + 13 * i) % 256 for i in range(PROMPT)) for key in range(count)]


class InProcess:
    """Scheduler and runner, driven by this thread."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._settings = SchedulerConfig(max_running=sizes.requests, prefix_cache=False)
        self._runner = ModelRunner(
            EngineConfig(
                model=str(MODELS_DIRECTORY / MODEL),
                device="cpu",
                threads=sizes.threads,
                kv_blocks=kv_blocks(sizes),
                scheduler=self._settings,
            )
        )

    async def run(self) -> int:
        """Decodes all requests to their ends; new tokens."""
        runner, drawn = self._runner, 0
        scheduler = Scheduler(self._settings, runner.total_blocks, runner.choose_blocks)
        greedy = engine_request.Sampling(temperature=0.0)
        for key, prompt in enumerate(prompts(self._sizes.requests)):
            new = self._sizes.new_tokens
            scheduler.submit(engine_request.Request(key, prompt, new, sampling=greedy))
        engine = Steps(scheduler, runner)
        while scheduler.num_live:
            drawn += len(engine.step()[1])
        return drawn


def kv_blocks(sizes: Sizes) -> int:
    """So many that nothing waits for any."""
    return sizes.requests * -(-(PROMPT + sizes.new_tokens) // SchedulerConfig.block_size)


def questions(sizes: Sizes, interval: int = 1) -> list[Request]:
    """The requests, as a client sends them; `interval` tokens come per message."""
    return [
        Request(
            TokenIds(prompt),
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=sizes.new_tokens, ignore_eos=True),
            stream_interval=interval,
        )
        for prompt in prompts(sizes.requests)
    ]


async def run_light(target: str, asked: Sequence[Request]) -> int:
    """Asks everything through the light client; new tokens."""
    received = 0

    def take(at: float, index: int, tokens: Tokens) -> None:
        nonlocal received
        received += len(tokens.ids)

    client = LoadClient(target, CONNECTIONS, take)
    try:
        client.run([request.to_proto().SerializeToString() for request in asked])
    finally:
        client.close()
    return received


async def run_sdk(target: str, asked: Sequence[Request]) -> int:
    """Asks everything through the SDK; new tokens."""
    async with AsyncClient(target) as client:
        answers = await asyncio.gather(*(client.complete(request) for request in asked))
    return sum(len(answer.output.token_ids) for answer in answers)


async def measure_path(sizes: Sizes) -> list[dict[str, Any]]:
    """One row per arm: medians over the turns."""
    options = {
        "--threads": sizes.threads,
        "--kv-blocks": kv_blocks(sizes),
        "--max-running": sizes.requests,
    }
    flat = [str(part) for option in options.items() for part in option]
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    with TemporaryDirectory() as logs:
        flat += ["--no-metrics", "--no-prefix-cache"]
        directory = str(MODELS_DIRECTORY / MODEL)
        in_process = InProcess(sizes)
        others = set(children(os.getpid()))
        async with local_servers([directory], Path(logs), flat) as [server]:
            [front] = set(children(os.getpid())) - others
            arms: dict[str, Callable[[], Awaitable[int]]] = {
                "in process": in_process.run,
                "light": lambda: run_light(server.target, questions(sizes)),
                "light 8": lambda: run_light(server.target, questions(sizes, interval=8)),
                "sdk": lambda: run_sdk(server.target, questions(sizes)),
            }
            for _ in range(sizes.turns):
                for arm, run in arms.items():
                    runs[arm].append(await _timed(run, front))
    return [
        {
            "measurement": "path",
            "model": MODEL,
            "arm": arm,
            "requests": sizes.requests,
            "new_tokens": sizes.new_tokens,
            "threads": sizes.threads,
            "turns": sizes.turns,
            **{name: median(each[name] for each in found) for name in found[0]},
        }
        for arm, found in runs.items()
    ]


async def _timed(run: Callable[[], Awaitable[int]], front: int) -> dict[str, float]:
    """Tokens per second, and what each token cost in CPU time of which process."""
    engine = children(front)
    before = time.monotonic(), time.process_time(), cpu_seconds(front), cpu_seconds(*engine)
    tokens = await run()
    after = time.monotonic(), time.process_time(), cpu_seconds(front), cpu_seconds(*engine)
    wall, own, fronts, engines = (b - a for a, b in zip(before, after, strict=True))
    return {
        "tokens_per_second": tokens / wall,
        "us_per_token": 1e6 * own / tokens,  # of this process: the engine, or the client
        "front_us_per_token": 1e6 * fronts / tokens,
        "engine_us_per_token": 1e6 * engines / tokens,
    }


async def measure_fronts(loads: Sequence[FrontLoad]) -> list[dict[str, Any]]:
    """One row per rate of steps."""
    return [{"measurement": "front", **asdict(load), **await measure_front(load)} for load in loads]


def headline(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The numbers that goals are set for; see the module's text."""
    path = {row["arm"]: row for row in rows if row["measurement"] == "path"}
    fronts = [row for row in rows if row["measurement"] == "front"]
    base, first = path["in process"]["tokens_per_second"], fronts[0]
    return {
        "grpc_over_inprocess": path["light"]["tokens_per_second"] / base,
        "grpc8_over_inprocess": path["light 8"]["tokens_per_second"] / base,
        "sdk_over_inprocess": path["sdk"]["tokens_per_second"] / base,
        "engine_cpu_over_inprocess": path["light"]["engine_us_per_token"]
        / path["in process"]["us_per_token"],
        "front_tokens_per_second": max(row["tokens_per_second"] for row in fronts),
        "front_tokens_per_cpu_second": 1e6 / first["front_us_per_token"],
        "front_us_per_token": first["front_us_per_token"],
        "delivery_p50_ms": first["delivery_p50_ms"],
        "delivery_p99_ms": first["delivery_p99_ms"],
        "offered_tokens_per_second": first["offered_tokens_per_second"],
        "threads": path["light"]["threads"],
        "cores": os.cpu_count() or 1,
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows as two tables."""
    console = Console(width=140)
    of_a_path = ("tokens_per_second", "us_per_token", "front_us_per_token", "engine_us_per_token")
    title = "{model}: {requests} requests of {new_tokens} new tokens, {threads} engine thread(s)"
    path = Table("arm", *of_a_path, title=title.format_map(rows[-1]))
    for row in rows:
        if row["measurement"] == "path":
            path.add_row(row["arm"], *(f"{row[name]:,.1f}" for name in of_a_path))
    console.print(path)
    names = ("offered_tokens_per_second", "tokens_per_second", "tokens_per_message",
             "delivery_p50_ms", "delivery_p99_ms", "front_cores", "front_us_per_token",
             "client_cores")  # fmt: skip
    fronts = Table("streams", "step", *names, title="front process on one core, fake engine")
    for row in rows:
        if row["measurement"] == "front":
            values = (f"{row[name]:,.2f}" for name in names)
            fronts.add_row(str(row["streams"]), f"{1e3 * row['period']:g} ms", *values)
    console.print(fronts)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer turns and rates.")] = False,
) -> None:
    """Measure the service against its engine, and the front process by itself."""
    sizes = QUICK if quick else FULL
    rows = asyncio.run(measure_fronts(sizes.fronts)) + asyncio.run(measure_path(sizes))
    show(rows)
    results.append("serving", [{**row, "quick": quick} for row in rows])
    print(json.dumps(headline(rows)))


if __name__ == "__main__":
    typer.run(main)
