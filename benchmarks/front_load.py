"""What the front process delivers, how late, and for how much CPU time, at one rate of steps."""

import os
import re
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.load_client import LoadClient
from benchmarks.paced_server import CYCLE, PROMPT, ROOM, split_cores
from benchmarks.processes import cpu_seconds
from clients.local_server import local_servers
from clients.sdk import Request, Stopping, TokenIds, Tokens

SERVE = (sys.executable, "-m", "benchmarks.paced_server")
PID = re.compile(r", pid (\d+)$", re.MULTILINE)
SETTLE_SECONDS = 1.0  # between the first token of the last stream and the measurement


@dataclass(frozen=True)
class FrontLoad:
    """What is offered."""

    streams: int
    period: float  # seconds between the ends of engine steps; each gives every stream a token
    connections: int
    seconds: float  # measured


async def measure_front(load: FrontLoad) -> dict[str, float]:
    """Offers the load to a server of its own; delivered tokens per second and their delays.

    A token's delay is from the end of the engine step that made it (commit, encoding, pipe,
    fan-out, gRPC and the socket are still to come) to the moment this client has read it.
    """
    with TemporaryDirectory() as directory:
        stamps = Path(directory) / "stamps"
        options = {"--streams": load.streams, "--period": load.period, "--stamps": stamps}
        flat = [str(part) for option in options.items() for part in option]
        async with local_servers(["fake"], Path(directory), flat, command=SERVE) as [server]:
            pid = int(PID.findall(server.log.read_text())[0])
            recorder = _Recorder(load, pid)
            ours = os.sched_getaffinity(0)
            os.sched_setaffinity(0, split_cores()[1])
            client = LoadClient(server.target, load.connections, recorder.take)
            try:
                client.run(_requests(load.streams), until=recorder.over)
            finally:
                client.close()
                os.sched_setaffinity(0, ours)
            return recorder.numbers(array("d", stamps.read_bytes()))


def delays(arrivals: Sequence[tuple[float, Sequence[int]]], steps: Sequence[float]) -> list[float]:
    """Seconds from the end of each token's step to its arrival, ascending.

    Args:
        arrivals: when tokens came, and the tokens: each the number of its step, modulo CYCLE.
        steps: when each step ended.
    """
    found = []
    for at, tokens in arrivals:
        last = bisect_right(steps, at) - 1  # newest step that can have made them
        found += [at - steps[last - (last - token) % CYCLE] for token in tokens]
    return sorted(found)


class _Recorder:
    """Notes what arrives while all streams run."""

    def __init__(self, load: FrontLoad, pid: int) -> None:
        self._load = load
        self._pid = pid
        self._begun: set[int] = set()
        self._arrivals: list[tuple[float, list[int]]] = []
        self._start = self._end = float("inf")
        self._cpu = 0.0  # of the server at the start, then what the measurement took
        self._own = 0.0  # the same of this process
        self._measuring = False

    def take(self, at: float, index: int, tokens: Tokens) -> None:
        if self._measuring:
            self._arrivals.append((at, list(tokens.ids)))
        elif len(self._begun) < self._load.streams:
            self._begun.add(index)
            self._start = at + SETTLE_SECONDS
        elif at >= self._start:
            self._measuring = True
            self._start = at
            self._end = at + self._load.seconds
            self._cpu, self._own = cpu_seconds(self._pid), time.process_time()

    def over(self) -> bool:
        if time.monotonic() < self._end:
            return False
        self._end = time.monotonic()
        self._cpu = cpu_seconds(self._pid) - self._cpu
        self._own = time.process_time() - self._own
        return True

    def numbers(self, steps: Sequence[float]) -> dict[str, float]:
        tokens = sum(len(ids) for _, ids in self._arrivals)
        seconds = self._end - self._start
        late = delays(self._arrivals, steps)
        made = bisect_right(steps, self._end) - bisect_right(steps, self._start)
        return {
            "offered_tokens_per_second": made * self._load.streams / seconds,
            "tokens_per_second": tokens / seconds,
            "tokens_per_message": tokens / len(self._arrivals),
            "delivery_p50_ms": 1e3 * late[len(late) // 2],
            "delivery_p99_ms": 1e3 * late[int(0.99 * len(late))],
            "delivery_most_ms": 1e3 * late[-1],
            "front_cores": self._cpu / seconds,
            "front_us_per_token": 1e6 * self._cpu / tokens,
            "client_cores": self._own / seconds,
        }


def _requests(count: int) -> list[bytes]:
    stopping = Stopping(max_tokens=ROOM - PROMPT, ignore_eos=True)
    return [
        Request(TokenIds((index % 256, *range(1, PROMPT))), stopping=stopping)
        .to_proto()
        .SerializeToString()
        for index in range(count)
    ]
