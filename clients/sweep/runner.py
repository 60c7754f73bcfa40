"""Runs a plan on one or more servers into one run directory."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from clients.async_client import AsyncClient
from clients.errors import CallError, SweepError, Unavailable
from clients.records import Cell, Record
from clients.settings import KvBudget, Request, Stopping
from clients.sweep.cell import CellRun, measure
from clients.sweep.plan import Job, Plan
from clients.sweep.progress import SweepProgress
from clients.sweep.run import Run, ServerFacts

READY_SECONDS = 60.0
# Enough new tokens past the budget that kernels and policies have all run once.
WARM_UP = Stopping(max_tokens=96, ignore_eos=True)
WARM_UP_BUDGET = 64


async def sweep(servers: Sequence[str], plan: Plan, out: Path, console: Console) -> list[Record]:
    """Measures every cell of `plan` on every server (a target each) that `out` lacks rows of.

    Returns all rows of the run. Interrupting it loses only the answers in flight; see
    `clients.sweep` for what a second call does.

    Raises:
        SweepError: a cell cannot be served, `out` holds another run, or a server went away.
        NotServing, CallError: a server is not there at the start.
    """
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(server)) for server in servers]
        run = stack.enter_context(Run(out, plan.settings))
        parts = [await _prepare(client, plan, run) for client in clients]
        models = [part.facts.model for part in parts]
        if len(set(models)) != len(models):
            raise SweepError(f"got servers of {', '.join(models)}; each model may come once")
        total = sum(len(jobs) for part in parts for jobs in part.todo.values())
        progress = stack.enter_context(SweepProgress(console, total))
        for part in parts:
            await part.measure(run, plan, progress)
        return run.rows


class _Part:
    """What one server has to do."""

    def __init__(
        self, client: AsyncClient, facts: ServerFacts, todo: dict[Cell, list[Job]]
    ) -> None:
        self.facts = facts
        self.todo = todo  # every cell of the model; those that are complete have no jobs
        self._client = client

    async def measure(self, run: Run, plan: Plan, progress: SweepProgress) -> None:
        open_cells = {cell: jobs for cell, jobs in self.todo.items() if jobs}
        if len(open_cells) < len(self.todo):
            complete = len(self.todo) - len(open_cells)
            progress.say(f"{self.facts.model}: {complete} cells are complete in {run.directory}")
        await self._warm_up(open_cells)
        for cell, jobs in open_cells.items():
            progress.begin(cell, run.of(cell))

            def add(row: Record) -> None:
                run.add(row)
                progress.add(row)

            segment = run.next_segment(cell)
            cell_run = CellRun(run.name, cell, segment, self.facts.chat, plan.settings)
            rows = await measure(self._client, cell_run, jobs, add)
            progress.end(cell, run.of(cell))
            _give_up_if_gone(self._client, rows)

    async def _warm_up(self, cells: dict[Cell, list[Job]]) -> None:
        """One short answer per policy, so that no cell pays for what happens only once."""
        for policy in dict.fromkeys(cell.policy for cell in cells):
            cap = 0 if policy is None else WARM_UP_BUDGET
            budget = KvBudget(max_tokens=cap, policy=policy)
            try:
                await self._client.complete(Request("1 2 3", kv_budget=budget, stopping=WARM_UP))
            except Unavailable:
                raise
            except CallError:
                continue  # a server that refuses this odd request is still measured, only cold


async def _prepare(client: AsyncClient, plan: Plan, run: Run) -> _Part:
    await client.wait_until_serving(READY_SECONDS)
    info = await client.model_info()
    cells = plan.cells(info)
    facts = ServerFacts.of(info, await client.server_info())
    run.add_server(facts)
    samples = range(plan.settings.samples)
    todo = {
        cell: [
            Job(problem, sample)
            for sample in samples
            for problem in plan.problems[cell.task]
            if not run.is_done(cell, problem.id, sample)
        ]
        for cell in cells
    }
    return _Part(client, facts, todo)


def _give_up_if_gone(client: AsyncClient, rows: Sequence[Record]) -> None:
    if all((row.error or "").startswith("UNAVAILABLE") for row in rows):
        raise SweepError(
            f"{client.target} went away: every request of {rows[0].cell} failed "
            f"({rows[0].error}); start it and run the same command again to go on"
        )
