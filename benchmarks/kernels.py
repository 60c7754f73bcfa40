"""How fast every operation of `kernels/` is, against the bandwidth of a copy on this machine.

    python -m benchmarks.kernels            all cases this device can run, minutes
    python -m benchmarks.kernels --quick    pocket-sized cases only, under a minute

An operation whose tests are red is not timed. The fraction is bytes that the operation must move
(benchmarks/kernel_bytes.py), over its median time, over what a copy of a large buffer moves. On a
GPU Triton is timed; on a CPU numba, next to the torch reference, both on one thread. Appends to
benchmarks/results/kernels.jsonl; the last line printed is JSON.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import kernel_tests, results, timing
from benchmarks.kernel_bytes import MUST_MOVE
from kernels.impl import set_cpu_threads
from kernels.paged_decode.cases import BF16
from kernels.paged_decode.cases import Case as DecodeCase

LENGTHS = (2500, 3000, 3500, 4000, 4500, 5000)  # tokens held, the budgets that matter
BATCHES = (20, 64, 128, 256)  # sequences
HEADS = {"llama8b": (8, 4), "qwen7b": (4, 7)}  # KV heads, queries per KV head; all of 128
SECONDS, QUICK_SECONDS = 1.0, 0.1  # of one measurement on a CPU


@dataclass
class Row:
    """One operation on one case; seconds are medians of one call."""

    operation: str
    case: str
    device: str
    implementation: str
    status: str = "measured"  # or "refused", "failed", "skipped"
    reason: str = ""
    seconds: float | None = None
    must_move: int | None = None  # bytes
    copy_bandwidth: float | None = None  # bytes per second
    fraction: float | None = None
    reference_seconds: float | None = None

    @property
    def name(self) -> str:
        return f"{self.operation}/{self.case}"


def operations(device: torch.device) -> dict[str, str]:
    """The operations that have benchmarks, and which implementation is timed.

    Raises:
        LookupError: what one must move is not known.
    """
    folder = results.ROOT / "kernels"
    names = sorted(path.parent.name for path in folder.glob("*/cases.py"))
    if lacking := sorted(set(names) - MUST_MOVE.keys()):
        raise LookupError(f"benchmarks/kernel_bytes.py: MUST_MOVE has no entry for {lacking}")
    if device.type == "cuda":
        return dict.fromkeys(names, "triton")
    return {n: "numba" if (folder / n / "cpu.py").exists() else "reference" for n in names}


def cases(names: Iterable[str], device: torch.device, quick: bool) -> Iterator[tuple[str, Any]]:
    """Operations and their benchmarks that the device can run; numba takes float32 only.

    On a GPU paged_decode at the shapes that matter follows.
    """
    listed = [(n, case) for n in names for case in import_module(f"kernels.{n}.cases").BENCHMARKS]
    if device.type == "cuda" and "paged_decode" in names:
        there = {case.name for name, case in listed if name == "paged_decode"}
        listed += [("paged_decode", case) for case in decode_cases() if case.name not in there]
    for name, case in listed:
        fits = device.type == "cuda" or getattr(case, "dtype", torch.float32) is torch.float32
        if fits and (not quick or case.name.startswith("pocket")):
            yield name, case


def decode_cases() -> Iterator[DecodeCase]:
    """One token each, with the heads of R1-Distill-Llama-8B and R1-Distill-Qwen-7B."""
    for model, (kv_heads, group) in HEADS.items():
        for batch in BATCHES:
            for length in LENGTHS:
                yield DecodeCase(
                    f"{model}-{batch}x{length}",
                    (length,) * batch,
                    kv_heads=kv_heads,
                    group=group,
                    head_dim=128,
                    dtype=BF16,
                )


def measure(row: Row, case: Any, device: torch.device, seconds: float) -> None:
    """Fills in the row's numbers; `copy_bandwidth` is known."""
    package = import_module(f"kernels.{row.operation}")
    inputs = import_module(f"kernels.{row.operation}.cases").make(case, device.type)
    call = getattr(package, row.operation)

    def median(implementation: str) -> float:
        return timing.median_seconds(lambda: call(**inputs, impl=implementation), device, seconds)

    result = call(**inputs, impl=row.implementation)
    row.must_move = MUST_MOVE[row.operation](inputs, result)
    row.seconds = median(row.implementation)
    assert row.copy_bandwidth is not None
    row.fraction = row.must_move / row.seconds / row.copy_bandwidth
    if row.implementation == "numba":
        row.reference_seconds = median("reference")


def run(
    device: torch.device, quick: bool, complaints: dict[str, str], deadline: float
) -> list[Row]:
    """A row for every case: measured, or why it is not."""
    bandwidth, timed = timing.copy_bandwidth(device), operations(device)
    rows = []
    for operation, case in cases(timed, device, quick):
        row = Row(operation, case.name, timing.label(device), timed[operation])
        row.copy_bandwidth = bandwidth
        rows.append(row)
        if operation in complaints:
            row.status, row.reason = "refused", complaints[operation]
        elif time.monotonic() > deadline:
            row.status, row.reason = "skipped", "no time was left"
        else:
            try:
                measure(row, case, device, QUICK_SECONDS if quick else SECONDS)
            except Exception as error:  # noqa: BLE001 - reported in its row, the rest goes on
                row.status, row.reason = "failed", f"{type(error).__name__}: {error}"[:500]
            timing.release(device)
    return rows


def table(rows: list[Row]) -> Table:
    """A line for each row."""
    drawn = Table(title=f"Kernels on {rows[0].device}, one call, medians")
    drawn.add_column("operation/case")
    for title in ("by", "time, µs", "must move, MB", "GB/s", "of a copy", "reference, µs", "ratio"):
        drawn.add_column(title, justify="right")
    for row in rows:
        if row.seconds is None or row.must_move is None or row.fraction is None:
            drawn.add_row(row.name, row.implementation, row.status, row.reason)
            continue
        numbers = [f"{row.seconds * 1e6:,.1f}", f"{row.must_move / 1e6:,.2f}"]
        numbers += [f"{row.must_move / row.seconds / 1e9:,.1f}", f"{row.fraction:.1%}"]
        if row.reference_seconds is not None:
            ratio = row.reference_seconds / row.seconds
            numbers += [f"{row.reference_seconds * 1e6:,.1f}", f"{ratio:.1f}"]
        drawn.add_row(row.name, row.implementation, *numbers)
    return drawn


def summary(rows: list[Row]) -> dict[str, Any]:
    """What the last line says: the copy's bandwidth, and each case's fraction of it."""
    by_status = {
        status: {row.name: row.reason for row in rows if row.status == status}
        for status in ("refused", "failed", "skipped")
    }
    return {
        "benchmark": "kernels",
        "device": rows[0].device,
        "copy_bytes_per_second": rows[0].copy_bandwidth,
        "fraction": {row.name: round(row.fraction, 4) for row in rows if row.fraction is not None},
        "times_reference": {
            row.name: round(row.reference_seconds / row.seconds, 2)
            for row in rows
            if row.seconds is not None and row.reference_seconds is not None
        },
        **by_status,
    }


def main(
    quick: Annotated[bool, typer.Option("--quick", help="pocket-sized cases only")] = False,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu")] = "auto",
    seconds: Annotated[float, typer.Option(help="start no case later; 0: no limit")] = 0.0,
    tested: Annotated[
        Path | None, typer.Option(help="JUnit report of the tests; default: they run here")
    ] = None,
    stored: Annotated[Path, typer.Option(help="where rows go")] = results.RESULTS,
) -> None:
    """Tests, measures, prints the table, appends the rows; fails if a case was not right."""
    place = timing.pick(device)
    timed = operations(place)
    if tested is None:
        complaints = kernel_tests.complaints(timed)
    else:
        complaints = kernel_tests.read_report(timed, tested)
    if place.type == "cpu":
        torch.set_num_threads(1)
        set_cpu_threads(1)
    deadline = time.monotonic() + seconds if seconds else float("inf")
    rows = run(place, quick, complaints, deadline)
    Console(width=140).print(table(rows))
    results.append("kernels", [asdict(row) | {"quick": quick} for row in rows], stored)
    print(json.dumps(summary(rows)))
    if any(row.status in ("refused", "failed") for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
