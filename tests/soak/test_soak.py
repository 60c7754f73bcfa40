"""Mixed traffic for as long as SLUICE_SOAK_SECONDS says: nothing grows, nothing leaks.

Every round ends idle and is measured then, so that what live requests hold does not count.
"""

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from protos.sluice.v1 import sluice_pb2 as pb
from tests.service.harness import eventually
from tests.service.scale import SEED
from tests.service.test_serve import children, served
from tests.soak.traffic import Traffic

SECONDS = float(os.environ.get("SLUICE_SOAK_SECONDS", "2"))
RATE = float(os.environ.get("SLUICE_SOAK_RATE", "20"))  # calls per second
ROUND = max(SECONDS / 60, 0.5)  # seconds of traffic between two measurements
WARM_UP = 0.25  # share of the rounds that says nothing of growth
LONG_ENOUGH = 120.0  # seconds; less says nothing of growth at all
GROWTH, NOISE = 1.0, 1.5  # MiB per hour, and MiB by chance over any time
OPTIONS = (
    *("--fake-step-seconds", "0.001", "--kv-blocks", "1500", "--max-running", "16"),
    *("--log-level", "warning"),  # nobody reads the lines
)


@dataclass(frozen=True)
class Measured:
    """One process when nothing runs."""

    at: float  # seconds
    mebibytes: float  # resident
    files: int
    threads: int


def measure(pid: int, begun: float) -> Measured:
    folder = Path(f"/proc/{pid}")
    fields = dict(
        line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
    )
    return Measured(
        time.monotonic() - begun,
        int(fields["VmRSS"].split()[0]) / 1024,
        len(list((folder / "fd").iterdir())),
        int(fields["Threads"]),
    )


def processes(front: int) -> dict[str, int]:
    """The service's processes by name; multiprocessing's resource tracker is none of them."""
    engine = [
        p for p in children(front) if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()
    ]
    assert len(engine) == 1
    return {"front": front, "engine": engine[0]}


def leaked(load: pb.Load) -> int:
    """References to blocks that no live output has, as the metric of that name."""
    in_tables = sum(counts.blocks for counts in load.budget_classes)
    return load.blocks_used + load.blocks_shared - in_tables


class Soak:
    """Rounds of traffic, and what the processes took after each."""

    def __init__(self, traffic: Traffic, pids: dict[str, int]) -> None:
        self._traffic = traffic
        self._pids = pids
        self._begun = time.monotonic()
        self.measured: dict[str, list[Measured]] = {name: [] for name in pids}

    async def run(self) -> None:
        while time.monotonic() < self._begun + SECONDS:
            await self._round()
            await eventually(self._traffic.is_idle, 60)
            for name, pid in self._pids.items():
                self.measured[name].append(measure(pid, self._begun))

    async def _round(self) -> None:
        ends, calls = time.monotonic() + ROUND, []
        while time.monotonic() < ends:
            calls.append(asyncio.create_task(self._traffic.one()))
            await asyncio.sleep(1 / RATE)
        assert leaked(await self._traffic.load()) == 0
        await asyncio.gather(*calls)

    def check(self) -> None:
        for name, series in self.measured.items():
            late = series[int(len(series) * WARM_UP) :]
            first, last = late[0], late[-1]
            slope = np.polyfit([m.at for m in late], [m.mebibytes for m in late], 1)[0]
            print(f"{name}: {first} -> {last}; {3600 * slope:+.2f} MiB per hour")
            if SECONDS < LONG_ENOUGH:
                continue
            span = last.at - first.at
            assert slope * span < GROWTH * span / 3600 + NOISE, name
            half = len(late) // 2
            assert min(m.files for m in late[half:]) <= min(m.files for m in late[:half]), name
            assert max(m.threads for m in late[half:]) <= max(m.threads for m in late[:half]), name


@pytest.mark.timeout(180 + 2 * SECONDS)
def test_nothing_grows() -> None:
    async def scenario(address: str, pids: dict[str, int]) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            traffic = Traffic(address, channel, SEED)
            soak = Soak(traffic, pids)
            await soak.run()
            print(f"{SECONDS:g} s, {sum(traffic.asked.values())} calls: {dict(traffic.asked)}")
            soak.check()
            assert len(traffic.asked) > 2

    with served(*OPTIONS) as (process, address):
        asyncio.run(scenario(address, processes(process.pid)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
