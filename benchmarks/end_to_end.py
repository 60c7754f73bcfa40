"""Tokens per second of steady decoding against the KV budget, at the shapes of the R1 distills.

    python -m benchmarks.end_to_end                               both shapes on a GPU, 6 minutes
    python -m benchmarks.end_to_end --shape tiny --device cpu     seconds; what tests run

Random weights, one KV pool for all cells, and as many outputs as it holds: each at its budget, or
half way through a trace of 16,384 tokens where nothing is evicted ("whole"). No server; scheduling,
evictions and draws are timed. "transformers" is its continuous batching with as much cache and the
requests of "whole", whose prompts are far shorter, to its advantage. The roofline is the bytes a
step must read, weights once and caches, over what a copy of a large buffer moves; the fraction is
how near a step comes. Appends each cell to benchmarks/results/end_to_end.jsonl; the last line
printed is JSON.
"""

import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import results, steady, timing
from benchmarks.peers import continuous_batching
from benchmarks.shapes import SHAPES, Shape, make_model, step_weight_bytes
from engine.attention import register_attention
from engine.loader import adopt_model
from scheduler.budget import BudgetLimits

POOL_SHARE = 0.6  # of the memory that weights leave free; the rest is for activations and queries
WHOLE, PEER = "whole", "transformers"


@dataclass
class Row:
    """One cell: a shape at a budget, the whole cache, or transformers."""

    shape: str
    cell: str
    device: str
    status: str = "measured"  # or "failed", "skipped"
    reason: str = ""
    policy: str | None = None
    running: int | None = None  # outputs
    pool_tokens: int | None = None
    held: float | None = None  # tokens per output, mean
    tokens_per_second: float | None = None
    median_step_seconds: float | None = None
    rounds_per_step: float | None = None  # evictions of one output
    step_bytes: int | None = None  # weights and caches, read once
    copy_bandwidth: float | None = None  # bytes per second
    fraction: float | None = None  # of the roofline
    kernels: str | None = None


class Bench:
    """One shape on one device: its model, its pool's size, and the cells measured so far."""

    def __init__(self, shape: Shape, device: torch.device, policy: str, seconds: float) -> None:
        self.shape, self.device, self.policy = shape, device, policy
        self.seconds = seconds  # of timed steps in a cell, at most
        self.bandwidth = timing.copy_bandwidth(device)
        timing.release(device)
        model = make_model(shape, device, register_attention())
        self.weight_bytes = step_weight_bytes(model)
        self.loaded = adopt_model(model, None)
        self.kv_blocks = shape.kv_blocks or self._affordable_blocks()

    def measure(self, row: Row) -> None:
        """Fills in the row of a budget, or of the whole cache."""
        work = self.work(None if row.cell == WHOLE else int(row.cell))
        done = steady.decode(work, self.loaded, self.device.type)
        cache = int(done.running * done.held * done.kv_bytes_per_token)
        row.policy = None if work.budget is None else self.policy
        row.running, row.held = done.running, round(done.held, 1)
        row.tokens_per_second = round(done.tokens_per_second, 1)
        row.median_step_seconds = done.median_step
        row.rounds_per_step = round(done.rounds / done.steps, 3)
        row.step_bytes, row.kernels = self.weight_bytes + cache, done.kernels
        ideal = row.step_bytes / self.bandwidth
        row.fraction = ideal / (done.seconds / done.steps)

    def work(self, budget: int | None) -> steady.Work:
        """What is decoded at a budget; None: with the whole cache."""
        return steady.Work(self.shape, self.kv_blocks, budget, self.policy, self.seconds)

    def measure_peer(self, row: Row) -> None:
        """Fills in the row of transformers; its model is made anew, without our attention."""
        del self.loaded
        _collect(self.device)
        model = make_model(self.shape, self.device, "sdpa")
        requests, words = self.work(None).running, self.shape.sizes["vocab_size"]
        draw = torch.Generator().manual_seed(0)
        size = (requests, self.shape.peer_prompt)
        prompts = torch.randint(words, size, generator=draw).tolist()
        done = continuous_batching.decode(
            model, prompts, self.kv_blocks * steady.BLOCK, self.seconds
        )
        row.running, row.held = done.running, round(done.held, 1)
        row.tokens_per_second = round(done.tokens_per_second, 1)
        row.kernels = str(model.config._attn_implementation)

    def _affordable_blocks(self) -> int:
        free = torch.cuda.mem_get_info(self.device)[0] * POOL_SHARE
        return int(free / (self.loaded.shape.bytes_per_token * steady.BLOCK))


def cells(shape: Shape, names: str) -> list[str]:
    """The cells asked for; by default the smallest budget and the whole cache come first."""
    if names:
        return names.split(",")
    first, *others = map(str, shape.budgets)
    return [first, WHOLE, *others, PEER]


def run(bench: Bench, names: list[str], deadline: float) -> Iterator[Row]:
    """Measures cell by cell; one that fails, or for which no time is left, says so."""
    names = sorted(names, key=lambda name: name == PEER)  # last: it replaces the model
    longest = 0.0  # seconds a cell took
    for name in names:
        row = Row(bench.shape.name, name, timing.label(bench.device))
        row.copy_bandwidth, row.pool_tokens = bench.bandwidth, bench.kv_blocks * steady.BLOCK
        started = time.monotonic()
        reserved = continuous_batching.PATIENCE if PEER in names and name != PEER else 0.0
        if started + longest + reserved > deadline:
            row.status, row.reason = "skipped", "no time was left"
        else:
            with _reported(row):
                (bench.measure_peer if name == PEER else bench.measure)(row)
            longest = max(longest, time.monotonic() - started)
        _collect(bench.device)
        yield row


def table(rows: list[Row]) -> Table:
    """A line for each cell of one shape."""
    drawn = Table(title=f"{rows[0].shape} on {rows[0].device}, {rows[0].pool_tokens} KV tokens")
    for title in ("cell", "running", "held", "tok/s", "ms a step", "rounds a step", "of roofline"):
        drawn.add_column(title, justify="right")
    for row in rows:
        if row.tokens_per_second is None:
            drawn.add_row(row.cell, row.status, row.reason)
            continue
        numbers = [f"{row.running}", f"{row.held:,.0f}", f"{row.tokens_per_second:,.0f}"]
        if row.median_step_seconds is not None:
            numbers += [f"{1000 * row.median_step_seconds:,.2f}", f"{row.rounds_per_step}"]
        if row.fraction is not None:
            numbers.append(f"{row.fraction:.1%}")
        drawn.add_row(row.cell, *numbers)
    return drawn


def summary(rows: list[Row]) -> dict[str, Any]:
    """What the last line says."""
    shapes: dict[str, dict[str, Any]] = {}
    for row in rows:
        cell: dict[str, Any] = {"status": row.status}
        if row.tokens_per_second is not None:
            cell |= {"tokens_per_second": row.tokens_per_second, "running": row.running}
        if row.fraction is not None:
            cell["fraction"] = round(row.fraction, 4)
        shapes.setdefault(row.shape, {})[row.cell] = cell
    return {
        "benchmark": "end_to_end",
        "device": rows[0].device,
        "copy_bytes_per_second": rows[0].copy_bandwidth,
        "shapes": shapes,
        "failed": {f"{row.shape}/{row.cell}": row.reason for row in rows if row.status == "failed"},
    }


@contextmanager
def _reported(row: Row) -> Iterator[None]:
    """What goes wrong is the row's, and the rest goes on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - its purpose: one cell must not end the others
        row.status, row.reason = "failed", f"{type(error).__name__}: {error}"[:500]


def _collect(device: torch.device) -> None:
    gc.collect()
    timing.release(device)


def main(
    shape: Annotated[str, typer.Option(help="comma-separated")] = "llama-8b,qwen-7b",
    device: Annotated[str, typer.Option(help="auto, cuda or cpu")] = "auto",
    only: Annotated[
        str, typer.Option(help="comma-separated budgets, whole, transformers; default: all")
    ] = "",
    policy: Annotated[str, typer.Option(help="for budgets")] = BudgetLimits.default_policy,
    seconds: Annotated[float, typer.Option(help="start no cell that would end later")] = 360.0,
    cell_seconds: Annotated[float, typer.Option(help="timed in one cell, at most")] = 8.0,
    stored: Annotated[Path, typer.Option(help="where rows go")] = results.RESULTS,
) -> None:
    """Measures, prints a table for each shape, appends each row; fails if a cell did."""
    started, place = time.monotonic(), timing.pick(device)
    names = shape.split(",")
    rows: list[Row] = []
    for number, name in enumerate(names, 1):
        own: list[Row] = []
        making = Row(name, "model", timing.label(place))
        with _reported(making):
            bench = Bench(SHAPES[name], place, policy, cell_seconds)
            deadline = started + seconds * number / len(names)
            for row in run(bench, cells(SHAPES[name], only), deadline):
                results.append("end_to_end", [asdict(row)], stored)
                own.append(row)
            del bench
        own += [making] if making.status == "failed" else []
        Console(width=120).print(table(own))
        rows += own
        _collect(place)
    print(json.dumps(summary(rows)))
    if any(row.status == "failed" for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
