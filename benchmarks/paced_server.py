"""The real service on one core, over a fake engine that ends its steps at set times.

Started by benchmarks/serving.py. What the engine "draws" is the number of the step, modulo
CYCLE, and the moment each step ended goes to a file, so that a client knows how long ago a token
that it receives was there to be sent.
"""

import asyncio
import functools
import os
import signal
import struct
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import typer

from engine.config import EngineConfig
from engine.fake import FakeRunner, FakeStep
from engine.loop import EngineLoop
from scheduler.plan import StepPlan, StepResult
from service.config import SchedulerConfig, ServiceConfig
from service.server import Server

CYCLE = 251  # tokens are steps modulo this; each is a byte with a text of its own
STAMP = struct.Struct("d")  # a step's end, on time.monotonic's clock
PROMPT, ROOM = 8, 32768  # tokens of a stream


class PacedRunner(FakeRunner):
    """Ends a step every `period` seconds, or as soon as it can when it is late."""

    def __init__(self, config: EngineConfig, period: float, stamps: Path) -> None:
        super().__init__(config)
        self._period = period
        self._stamps = stamps.open("wb", buffering=0)
        self._step = 0
        self._due = 0.0

    def launch(self, plan: StepPlan) -> FakeStep:
        now = time.monotonic()
        self._due = max(self._due + self._period, now)
        time.sleep(self._due - now)
        token, self._step = self._step % CYCLE, self._step + 1
        self._stamps.write(STAMP.pack(time.monotonic()))
        return FakeStep(StepResult([token] * sum(chunk.samples for chunk in plan.chunks)))


def paced_engine(
    period: float, stamps: Path, cores: set[int], config: EngineConfig, connection: Connection
) -> None:
    """Target of the engine process."""
    os.sched_setaffinity(0, cores)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    EngineLoop(PacedRunner(config, period, stamps), config.scheduler, connection).run()


def split_cores() -> tuple[set[int], set[int]]:
    """The front's core, and those of engine and clients: the others, where there are others."""
    cores = sorted(os.sched_getaffinity(0))
    return {cores[0]}, set(cores[1:] or cores)


async def serve(config: ServiceConfig, period: float, stamps: Path) -> None:
    """Serves until SIGTERM; announces address and process on stdout."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    front, others = split_cores()
    os.sched_setaffinity(0, front)
    server = Server(config, target=functools.partial(paced_engine, period, stamps, others))
    await server.start()
    line = f"sluice: serving fake on {config.host}:{server.port}, pid {os.getpid()}\n"
    print(line, end="", flush=True)
    await stop.wait()
    await server.stop(None)


def main(
    model: Annotated[str, typer.Option()],
    listen: Annotated[str, typer.Option()],
    streams: Annotated[int, typer.Option()],
    period: Annotated[float, typer.Option(help="Seconds between the ends of steps.")],
    stamps: Annotated[Path, typer.Option(help="File for the ends of steps.")],
) -> None:
    """Serve the paced engine."""
    scheduler = SchedulerConfig(max_running=streams, max_batch_tokens=streams * PROMPT)
    engine = EngineConfig(
        model,
        kv_blocks=streams * -(-ROOM // scheduler.block_size),
        max_sequence_tokens=ROOM,
        scheduler=scheduler,
    )
    config = ServiceConfig(listen=listen, metrics_port=None, engine=engine)
    asyncio.run(serve(config, period, stamps))


if __name__ == "__main__":
    typer.run(main)
