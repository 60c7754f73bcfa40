"""Runs a plan on one or more servers into one run directory."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from clients.async_client import AsyncClient
from clients.errors import CallError, NotServing, SweepError, Unavailable
from clients.records import Cell, Record
from clients.retry import RetryPolicy
from clients.settings import KvBudget, Request, Stopping
from clients.sweep.cell import CellRun, Watch, digest, measure
from clients.sweep.plan import Job, Plan, Settings
from clients.sweep.progress import SweepProgress
from clients.sweep.run import Run, ServerFacts
from clients.workloads import prompts
from protos.sluice.v1 import sluice_pb2 as pb

READY_SECONDS = 60.0
PATIENCE_SECONDS = 300.0  # for a server that went away; a large model loads for minutes
COMEBACKS = 3  # in a row without a single answer in between
# Enough new tokens past the budget that kernels and policies have all run once.
WARM_UP = Stopping(max_tokens=96, ignore_eos=True)
WARM_UP_BUDGET = 64


async def sweep(
    servers: Sequence[str],
    plan: Plan,
    out: Path,
    console: Console,
    patience: float = PATIENCE_SECONDS,
) -> list[Record]:
    """Measures every cell of `plan` on every model served that `out` lacks rows of.

    `servers` are targets; those that serve one model share its requests. A server that goes away
    is waited for, `patience` seconds, and the cell goes on in a new segment. Returns all rows of
    the run. Interrupting it loses only the answers in flight; see `clients.sweep` for what a second
    call does.

    Raises:
        SweepError: a cell cannot be served, `out` holds another run, or a server stayed away.
        NotServing, CallError: a server is not there at the start.
        DataError: `out` cannot be written, or another sweep is writing it.
    """
    for problems in plan.problems.values():
        prompts.check(plan.settings.prompt, problems[0])
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(server, retry=_Patient()))
            for server in servers
        ]
        models = await _by_model(clients, console)
        run = stack.enter_context(Run(out, plan.settings))
        parts = [_Part(found, info, plan, run) for found, info in models]
        for part in parts:
            await part.prepare()
        total = sum(len(jobs) for part in parts for jobs in part.todo.values())
        progress = stack.enter_context(SweepProgress(console, total))
        for part in parts:
            await part.measure(progress, patience)
        return run.rows


@dataclass(frozen=True)
class _Patient(RetryPolicy):
    """Waits in a full queue as any client does; for a server that is gone the sweep waits."""

    def delay(
        self, attempt: int, error: CallError, draw: Callable[[], float] = random.random
    ) -> float | None:
        return None if isinstance(error, Unavailable) else super().delay(attempt, error, draw)


class _Part:
    """What the servers of one model have to do."""

    def __init__(
        self, clients: Sequence[AsyncClient], info: pb.ModelInfo, plan: Plan, run: Run
    ) -> None:
        self.todo: dict[Cell, list[Job]] = {}  # every cell; those that are complete have no jobs
        self._clients = clients
        self._info = info
        self._plan = plan
        self._run = run
        self._settings = _fitting(plan.settings, info)

    async def prepare(self) -> None:
        """Finds what is left to do; SweepError where it cannot be done here."""
        cells = self._plan.cells(self._info)
        await self._note_servers()
        self.todo = {cell: self._missing(cell) for cell in cells}

    async def measure(self, progress: SweepProgress, patience: float) -> None:
        """Measures what is left, cell by cell."""
        open_cells = {cell: jobs for cell, jobs in self.todo.items() if jobs}
        if len(open_cells) < len(self.todo):
            complete = len(self.todo) - len(open_cells)
            progress.say(
                f"{self._info.name}: {complete} cells are complete in {self._run.directory}"
            )
        await self._warm_up(open_cells)
        for cell in open_cells:
            progress.begin(cell, self._run.of(cell))
            await self._measure(cell, progress, patience)
            progress.end(cell, self._run.of(cell))

    async def _measure(self, cell: Cell, progress: SweepProgress, patience: float) -> None:
        """One cell to its end, over any restarts of the servers."""

        def add(row: Record) -> None:
            self._run.add(row)
            progress.add(row)

        jobs, fruitless = self.todo[cell], 0
        gone: Unavailable | None = None
        while jobs:
            try:
                if gone is not None:
                    await self._come_back(cell, gone, progress, patience)
                segment = self._run.next_segment(cell)
                chat = self._info.has_chat_template
                cell_run = CellRun(self._run.name, cell, segment, chat, self._settings)
                await measure(self._clients, cell_run, jobs, Watch(progress.sent, add))
                return
            except Unavailable as error:
                gone, left = error, self._missing(cell)
                fruitless = fruitless + 1 if len(left) == len(jobs) else 0
                jobs = left
                if fruitless == COMEBACKS:
                    raise SweepError(
                        f"the server went away {COMEBACKS} times in {cell} without one answer "
                        f"({error}); see its log, then run the same command again to go on"
                    ) from error

    async def _come_back(
        self, cell: Cell, gone: Unavailable, progress: SweepProgress, patience: float
    ) -> None:
        progress.interrupted(f"{cell}: a server went away ({gone}); waiting for it")
        try:
            waits = (client.wait_until_serving(patience) for client in self._clients)
            await asyncio.gather(*waits)
        except NotServing as error:
            raise SweepError(
                f"{error}. Answers so far are safe; start it and run the same command again to go "
                "on"
            ) from error
        await self._note_servers()
        await self._warm_up({cell: []})

    def _missing(self, cell: Cell) -> list[Job]:
        """The answers of `cell` that are not there."""
        problems = self._plan.problems[cell.task]
        asked = {problem.id: digest(problem, self._settings) for problem in problems}
        samples = range(self._plan.settings.samples)
        jobs = [Job(problem, sample) for sample in samples for problem in problems]
        return [job for job in jobs if not self._run.is_done(cell, job, asked[job.problem.id])]

    async def _note_servers(self) -> None:
        """Writes down what serves the model; SweepError where that changed, or servers differ."""
        found = [
            ServerFacts.of(
                await client.model_info(), await client.server_info(), len(self._clients)
            )
            for client in self._clients
        ]
        for client, facts in zip(self._clients, found, strict=True):
            if facts != found[0]:
                raise SweepError(
                    f"{client.target} and {self._clients[0].target} serve {facts.model} in "
                    "different ways; start them with the same options, or sweep one at a time"
                )
        self._run.add_server(found[0])

    async def _warm_up(self, cells: dict[Cell, list[Job]]) -> None:
        """One short answer per policy and server, so that no cell pays for what happens once."""
        for policy in dict.fromkeys(cell.policy for cell in cells):
            cap = 0 if policy is None else WARM_UP_BUDGET
            budget = KvBudget(max_tokens=cap, policy=policy)
            for client in self._clients:
                try:
                    await client.complete(Request("1 2 3", kv_budget=budget, stopping=WARM_UP))
                except Unavailable:
                    raise
                except CallError:
                    continue  # a server that refuses this is still measured, only cold


async def _by_model(
    clients: Sequence[AsyncClient], console: Console
) -> list[tuple[list[AsyncClient], pb.ModelInfo]]:
    """The clients of each model, and what the first says of it. Waits for servers that start."""
    found: dict[str, tuple[list[AsyncClient], pb.ModelInfo]] = {}
    for client in clients:
        try:
            await client.wait_until_serving(1.0)
        except NotServing as error:
            console.print(f"{error}; waiting {READY_SECONDS:.0f} s more", markup=False)
            await client.wait_until_serving(READY_SECONDS)
        info = await client.model_info()
        found.setdefault(info.name, ([], info))[0].append(client)
    return list(found.values())


def _fitting(settings: Settings, info: pb.ModelInfo) -> Settings:
    """Without a limit of new tokens that the model's own length undercuts; else it is refused."""
    limit = settings.max_tokens
    if limit is None or limit < info.max_sequence_tokens:
        return settings
    return replace(settings, max_tokens=None)
