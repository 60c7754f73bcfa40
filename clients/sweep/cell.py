"""Measures one cell: its jobs through the service, so many at a time, each answer a row."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from clients.async_client import AsyncClient
from clients.completion import Completion
from clients.errors import BrokenStream, SluiceError
from clients.records import Cell, Record
from clients.scoring import score_math
from clients.settings import Chat, KvBudget, Request, Sampling, Stopping
from clients.sweep.plan import Job, Settings
from protos.sluice.v1.sluice_pb2 import Usage

USAGE_FIELDS = [f.name for f in Usage.DESCRIPTOR.fields if f.name in Record.__struct_fields__]


@dataclass(frozen=True)
class CellRun:
    """One go at a cell: which it is, and how its requests are made."""

    run: str
    cell: Cell
    segment: int
    chat: bool  # through the model's chat template, or as plain text
    settings: Settings

    def request(self, job: Job) -> Request:
        settings = self.settings
        prompt = job.problem.prompt
        return Request(
            Chat.user(prompt) if self.chat else prompt,
            model=self.cell.model,
            kv_budget=self.budget,
            sampling=Sampling(
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
                seed=job.seed(settings.seed),
            ),
            stopping=Stopping(max_tokens=settings.max_tokens),
            stream_interval=settings.stream_interval,
            cache_salt=str(self.cell),  # no cell may profit from the prompts of an earlier one
        )

    @property
    def budget(self) -> KvBudget:
        """Of every request."""
        budget, floor = self.cell.budget, self.settings.floor
        least = None if budget is None or floor is None else min(floor, budget)
        return KvBudget(max_tokens=budget or 0, policy=self.cell.policy, min_tokens=least)


async def measure(
    client: AsyncClient, cell_run: CellRun, jobs: Sequence[Job], add: Callable[[Record], None]
) -> list[Record]:
    """Decodes every job and hands each row to `add` as soon as its answer is complete.

    At most `concurrency` requests are in flight. A request that fails becomes a row too.
    """
    origin = time.monotonic()
    waiting = iter(jobs)
    rows: list[Record] = []

    async def work(waiting: Iterator[Job]) -> None:
        for job in waiting:
            row = await _row(client, cell_run, job, origin)
            add(row)
            rows.append(row)

    workers = min(cell_run.settings.concurrency, len(jobs))
    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work(waiting))
    return rows


async def _row(client: AsyncClient, cell_run: CellRun, job: Job, origin: float) -> Record:
    sent = time.monotonic()
    timeout = cell_run.settings.request_seconds
    try:
        completion = await client.complete(cell_run.request(job), timeout=timeout)
        _check_grant(cell_run, completion)
    except SluiceError as error:
        return _failure(cell_run, job, str(error), (sent - origin, time.monotonic() - origin))
    return _success(cell_run, job, completion, origin)


def _check_grant(cell_run: CellRun, completion: Completion) -> None:
    cell, granted, asked = cell_run.cell, completion.accepted, cell_run.budget
    floor = asked.max_tokens if asked.min_tokens is None else asked.min_tokens
    given = (granted.kv_budget, granted.min_tokens, granted.policy)
    if given != (asked.max_tokens, floor, asked.policy or ""):
        raise BrokenStream(
            f"the server granted a budget of {granted.kv_budget}, floor {granted.min_tokens}, "
            f"under policy {granted.policy or 'none'} where {cell}, floor {floor}, was asked for"
        )


def _success(cell_run: CellRun, job: Job, completion: Completion, origin: float) -> Record:
    output, granted = completion.output, completion.accepted
    usage, timing = output.usage, output.timing
    score = score_math(
        output.text,
        job.problem.answer,
        truncated=output.finish_reason == "length",
        thinking_ended=_thinking_ended(usage.reasoning_tokens, usage.completion_tokens),
    )
    return Record(
        run=cell_run.run,
        **cell_run.cell._asdict(),
        problem=job.problem.id,
        sample=job.sample,
        seed=granted.seed,
        gold=job.problem.answer,
        extracted=score.extracted,
        correct=score.correct,
        status=score.status,
        finish_reason=output.finish_reason,
        min_tokens=granted.min_tokens,
        pinned_tokens=granted.sink_tokens,
        recent_tokens=granted.recent_tokens,
        reclaim_tokens=granted.reclaim_tokens,
        **{name: getattr(usage, name) for name in USAGE_FIELDS},
        segment=cell_run.segment,
        sent=timing.sent - origin,
        first_token=None if timing.first_token is None else timing.first_token - origin,
        end=timing.end - origin,
        text=output.text,
    )


def _thinking_ended(reasoning_tokens: int, completion_tokens: int) -> bool | None:
    """False where the server says that every token was thinking; None where it does not know."""
    return None if reasoning_tokens == 0 else reasoning_tokens < completion_tokens


def _failure(cell_run: CellRun, job: Job, error: str, span: tuple[float, float]) -> Record:
    return Record(
        run=cell_run.run,
        **cell_run.cell._asdict(),
        problem=job.problem.id,
        sample=job.sample,
        seed=job.seed(cell_run.settings.seed),
        gold=job.problem.answer,
        extracted=None,
        correct=False,
        status="error",
        finish_reason=None,
        error=error,
        segment=cell_run.segment,
        sent=span[0],
        end=span[1],
    )
