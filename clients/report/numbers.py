"""The numbers of a report: one summary per cell, and one per line of the tables."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

import msgspec

from clients import statistics
from clients.records import Cell, Record


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What one cell came to. Shares and Pass@1 are 0..1; None means that nothing was measured."""

    model: str
    task: str
    budget: int | None  # KV tokens; None is the whole cache
    policy: str | None  # None for the whole cache
    n: int  # answers
    problems: int
    pass_at_1: float | None
    stderr: float | None  # of pass_at_1, clustered by problem
    tokens_per_second: float | None  # delivered tokens per second of the cell's wall clock
    wall_seconds: float
    completion_tokens: float | None  # mean per answer
    share_never_reached: (
        float | None
    )  # of problems: over before the cache was as long as the budget
    share_evicted: float | None  # of problems: something was evicted
    truncated: int  # cut off before an answer
    no_answer: int  # ended without an answer
    unscored: int  # scoring took too long
    errors: int  # requests that failed; not among n
    kv_tokens_peak: int  # largest of any answer
    kv_tokens_evicted: int  # over all answers
    eviction_rounds: int  # over all answers
    kv_blocks_peak: int  # largest of any answer
    preemptions: int  # over all answers
    pinned_tokens: float | None  # mean; the prompt, unless it could be evicted
    recent_tokens: int  # newest tokens protected
    reclaim_tokens: int  # freed by one round
    segments: int  # 1; more where the cell was interrupted and resumed
    difference: float | None = None  # Pass@1 minus the whole cache's, paired by problem
    difference_low: float | None = None  # its 95 % bootstrap interval
    difference_high: float | None = None

    @property
    def cell(self) -> Cell:
        return Cell(self.model, self.task, self.budget, self.policy)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """All tasks of one model under one budget and policy."""

    model: str
    budget: int | None
    policy: str | None
    cells: dict[str, Summary]  # by task
    pass_at_1: float | None  # mean over tasks; None where a task of the model is missing
    stderr: float | None
    tokens_per_second: float | None  # all delivered tokens over the sum of wall clocks


def summarise(rows: Iterable[Record]) -> list[Summary]:
    """One summary per cell, in order of first appearance."""
    cells: dict[Cell, list[Record]] = defaultdict(list)
    for row in rows:
        cells[row.cell].append(row)
    return [
        _summary(cell, found, cells.get(Cell(cell.model, cell.task, None, None)))
        for cell, found in cells.items()
    ]


def lines(summaries: Sequence[Summary]) -> list[Line]:
    """The summaries side by side by task: the whole cache first, then by policy and budget."""
    groups: dict[tuple[str, int | None, str | None], dict[str, Summary]] = defaultdict(dict)
    for summary in summaries:
        groups[summary.model, summary.budget, summary.policy][summary.task] = summary
    models, policies = models_of(summaries), policies_of(summaries)

    def order(key: tuple[str, int | None, str | None]) -> tuple[int, int, int]:
        model, budget, policy = key
        rank = -1 if policy is None else policies.index(policy)
        return models.index(model), rank, -(budget or 0)

    tasks = {model: {s.task for s in summaries if s.model == model} for model in models}
    return [_line(key, groups[key], tasks[key[0]]) for key in sorted(groups, key=order)]


def models_of(summaries: Iterable[Summary]) -> list[str]:
    """Models in order of first appearance."""
    return list(dict.fromkeys(s.model for s in summaries))


def tasks_of(summaries: Iterable[Summary]) -> list[str]:
    """Tasks in order of first appearance."""
    return list(dict.fromkeys(s.task for s in summaries))


def policies_of(summaries: Iterable[Summary]) -> list[str]:
    """Policies in order of first appearance; the first is the one drawn as bars."""
    return list(dict.fromkeys(s.policy for s in summaries if s.policy is not None))


def _summary(cell: Cell, rows: list[Record], whole: list[Record] | None) -> Summary:
    answers = statistics.answered(rows)
    compared = None
    if whole is not None and cell.budget is not None:
        compared = statistics.paired_difference(rows, whole)
    return Summary(
        **cell._asdict(),
        n=len(answers),
        problems=len({row.problem for row in answers}),
        pass_at_1=statistics.pass_at_1(rows),
        stderr=statistics.standard_error(rows),
        tokens_per_second=statistics.tokens_per_second(rows),
        wall_seconds=statistics.wall_seconds(rows),
        completion_tokens=_mean([row.completion_tokens for row in answers]),
        share_never_reached=statistics.share(rows, statistics.never_reached_budget),
        share_evicted=statistics.share(rows, statistics.was_evicted),
        truncated=sum(row.status == "truncated" for row in rows),
        no_answer=sum(row.status == "no_answer" for row in rows),
        unscored=sum(row.status == "timeout" for row in rows),
        errors=sum(row.failed for row in rows),
        kv_tokens_peak=max((row.kv_tokens_peak for row in answers), default=0),
        kv_tokens_evicted=sum(row.kv_tokens_evicted for row in answers),
        eviction_rounds=sum(row.eviction_rounds for row in answers),
        kv_blocks_peak=max((row.kv_blocks_peak for row in answers), default=0),
        preemptions=sum(row.preemptions for row in answers),
        pinned_tokens=_mean([row.pinned_tokens for row in answers]),
        recent_tokens=max((row.recent_tokens for row in answers), default=0),
        reclaim_tokens=max((row.reclaim_tokens for row in answers), default=0),
        segments=len({row.segment for row in rows}),
        difference=compared.mean if compared else None,
        difference_low=compared.low if compared else None,
        difference_high=compared.high if compared else None,
    )


def _line(
    key: tuple[str, int | None, str | None], cells: dict[str, Summary], tasks: set[str]
) -> Line:
    model, budget, policy = key
    marks = [cell.pass_at_1 for cell in cells.values() if cell.pass_at_1 is not None]
    errors = [cell.stderr for cell in cells.values() if cell.stderr is not None]
    seconds = sum(cell.wall_seconds for cell in cells.values())
    tokens = sum(cell.n * (cell.completion_tokens or 0.0) for cell in cells.values())
    return Line(
        model=model,
        budget=budget,
        policy=policy,
        cells=cells,
        pass_at_1=fmean(marks) if len(marks) == len(tasks) else None,
        stderr=math.hypot(*errors) / len(tasks) if len(errors) == len(tasks) else None,
        tokens_per_second=tokens / seconds if seconds > 0 and tokens else None,
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
