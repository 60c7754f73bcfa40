"""Measures one cell: its jobs through the service, so many at a time, each answer a row."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clients.async_client import AsyncClient
from clients.completion import Completion
from clients.errors import BrokenStream, SluiceError, Unavailable
from clients.records import Cell, Record
from clients.settings import Chat, KvBudget, Message, Request, Sampling, Stopping
from clients.sweep.plan import Job, Settings
from clients.sweep.verdict import verdict
from clients.workloads import prompts
from clients.workloads.problem import Problem
from protos.sluice.v1.sluice_pb2 import Usage

USAGE_FIELDS = [f.name for f in Usage.DESCRIPTOR.fields if f.name in Record.__struct_fields__]
DIGEST_DIGITS = 16


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
        asked = prompts.messages(job.problem, settings.prompt)
        return Request(
            Chat(asked) if self.chat else "\n\n".join(message.content for message in asked),
            model=self.cell.model,
            kv_budget=self.budget,
            sampling=Sampling(
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
                seed=job.seed(settings.seed),
            ),
            stopping=Stopping(max_tokens=settings.max_tokens, stop=stop_strings(job, settings)),
            stream_interval=settings.stream_interval,
            cache_salt=str(self.cell),  # no cell may profit from the prompts of an earlier one
        )

    @property
    def budget(self) -> KvBudget:
        """Of every request."""
        budget, floor = self.cell.budget, self.settings.floor
        least = None if budget is None or floor is None else min(floor, budget)
        return KvBudget(max_tokens=budget or 0, policy=self.cell.policy, min_tokens=least)


@dataclass(frozen=True)
class Watch:
    """Who hears of requests and rows."""

    sent: Callable[[], None]
    add: Callable[[Record], None]


def stop_strings(job: Job, settings: Settings) -> tuple[str, ...]:
    """Those of the prompt recipe, where it is used."""
    return prompts.recipe(settings.prompt).stop if job.problem.bare else ()


def digest(problem: Problem, settings: Settings) -> str:
    """Stands for the words in which a problem is asked."""
    asked: Sequence[Message] = prompts.messages(problem, settings.prompt)
    text = "\0".join(f"{message.role}\0{message.content}" for message in asked)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]


async def measure(
    clients: Sequence[AsyncClient], cell_run: CellRun, jobs: Sequence[Job], watch: Watch
) -> None:
    """Decodes every job and hands each row to `watch` as soon as its answer has its verdict.

    At most `concurrency` requests are in flight, shared evenly by the clients. A verdict may take
    seconds; the next request does not wait for it. A request that fails becomes a row too.

    Raises:
        Unavailable: a server is gone. The others were left to finish what they had; answers that
            the gone one had begun have no rows.
        DataError: a row could not be written.
    """
    origin = time.monotonic()
    waiting = iter(jobs)
    gone: list[Unavailable] = []
    verdicts = _Verdicts(2 * cell_run.settings.concurrency)

    async def work(client: AsyncClient, waiting: Iterator[Job]) -> None:
        for job in waiting:
            watch.sent()
            try:
                answer = await _answer(client, cell_run, job, origin)
            except Unavailable as error:
                gone.append(error)
                return
            await verdicts.add(_record(cell_run, job, answer, origin, watch))
            if gone:
                return

    count = min(cell_run.settings.concurrency, len(jobs))
    workers = [
        asyncio.create_task(work(clients[index % len(clients)], waiting)) for index in range(count)
    ]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await verdicts.finish()
    if gone:
        raise gone[0]


class _Verdicts:
    """Rows on their way to disk while the next requests run."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, record: Coroutine[Any, Any, None]) -> None:
        """Waits where too many are on their way. Raises what an earlier one ended with."""
        self._tasks.add(asyncio.create_task(record))
        if len(self._tasks) > self._most:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for done in [task for task in self._tasks if task.done()]:
            self._tasks.discard(done)
            done.result()

    async def finish(self) -> None:
        """Waits for all, then raises the first error."""
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


@dataclass(frozen=True)
class _Failure:
    """A request that came to nothing."""

    error: str
    sent: float  # seconds on the monotonic clock
    end: float


async def _answer(
    client: AsyncClient, cell_run: CellRun, job: Job, origin: float
) -> Completion | _Failure:
    sent = time.monotonic()
    timeout = cell_run.settings.request_seconds
    try:
        completion = await client.complete(cell_run.request(job), timeout=timeout)
        _check_grant(cell_run, completion)
    except Unavailable:
        raise
    except SluiceError as error:
        return _Failure(str(error), sent - origin, time.monotonic() - origin)
    return completion


async def _record(
    cell_run: CellRun, job: Job, answer: Completion | _Failure, origin: float, watch: Watch
) -> None:
    if isinstance(answer, _Failure):
        watch.add(_failure(cell_run, job, answer))
    else:
        row = _unscored(cell_run, job, answer, origin)
        watch.add(await asyncio.to_thread(verdict, row))


def _check_grant(cell_run: CellRun, completion: Completion) -> None:
    cell, granted, asked = cell_run.cell, completion.accepted, cell_run.budget
    floor = asked.max_tokens if asked.min_tokens is None else asked.min_tokens
    given = (granted.kv_budget, granted.min_tokens, granted.policy)
    if given != (asked.max_tokens, floor, asked.policy or ""):
        raise BrokenStream(
            f"the server granted a budget of {granted.kv_budget}, floor {granted.min_tokens}, "
            f"under policy {granted.policy or 'none'} where {cell}, floor {floor}, was asked for"
        )


def _unscored(cell_run: CellRun, job: Job, completion: Completion, origin: float) -> Record:
    output, granted = completion.output, completion.accepted
    usage, timing = output.usage, output.timing
    return Record(
        run=cell_run.run,
        **cell_run.cell._asdict(),
        problem=job.problem.id,
        sample=job.sample,
        seed=granted.seed,
        gold=job.problem.answer,
        options=job.problem.options or None,
        prompt=digest(job.problem, cell_run.settings),
        extracted=None,
        correct=False,
        status="error",
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


def _failure(cell_run: CellRun, job: Job, failure: _Failure) -> Record:
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
        error=failure.error,
        segment=cell_run.segment,
        sent=failure.sent,
        end=failure.end,
    )
