"""The numbers of a report: one summary per cell, and one per line of the tables."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import count, takewhile
from statistics import fmean
from typing import Any

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
    samples: int  # most answers to one problem
    pass_at_1: float | None
    stderr: float | None  # of pass_at_1, clustered by problem
    pass_at_k: dict[int, float | None]  # by k: 2, 4, 8, ... and `samples`; empty with one sample
    majority: float | None  # of all answers to a problem; None with one sample
    tokens_per_second: float | None  # delivered tokens per second of the cell's wall clock
    wall_seconds: float
    completion_tokens: float | None  # mean per answer
    completion_tokens_median: float | None
    completion_tokens_p90: float | None  # nine answers of ten are at most this long
    share_never_reached: (
        float | None
    )  # of problems: over before the cache was as long as the budget
    share_evicted: float | None  # of problems: something was evicted
    truncated: int  # cut off before an answer; wrong
    no_answer: int  # ended without an answer; wrong
    unscored: int  # could not be scored; among n, but in no score
    share_truncated: float | None  # of answers, as the next two
    share_no_answer: float | None
    share_unscored: float | None
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
    n: int  # answers
    pass_at_1: float | None  # mean over tasks; None where a task of the model is missing
    stderr: float | None
    pass_at_k: dict[int, float | None]  # as pass_at_1
    majority: float | None
    tokens_per_second: float | None  # all delivered tokens over the sum of wall clocks
    share_never_reached: float | None  # mean over tasks


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


def policies_of(summaries: Iterable[Summary | Line]) -> list[str]:
    """Policies in order of first appearance; the first is the one drawn as bars."""
    return list(dict.fromkeys(s.policy for s in summaries if s.policy is not None))


def _summary(cell: Cell, rows: list[Record], whole: list[Record] | None) -> Summary:
    answers = statistics.answered(rows)
    compared = None
    if whole is not None and cell.budget is not None:
        compared = statistics.paired_difference(rows, whole)
    return Summary(
        **cell._asdict(),
        **_scores(rows),
        **_lengths([row.completion_tokens for row in answers]),
        **_outcomes(rows),
        tokens_per_second=statistics.tokens_per_second(rows),
        wall_seconds=statistics.wall_seconds(rows),
        share_never_reached=statistics.share(rows, statistics.never_reached_budget),
        share_evicted=statistics.share(rows, statistics.was_evicted),
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


def _scores(rows: list[Record]) -> dict[str, Any]:
    answers = statistics.answered(rows)
    counts = Counter(row.problem for row in answers)
    samples = max(counts.values(), default=0)
    powers = takewhile(lambda k: k < samples, (2**step for step in count(1)))
    wanted = [*powers, samples] if samples > 1 else []
    return {
        "n": len(answers),
        "problems": len(counts),
        "samples": samples,
        "pass_at_1": statistics.pass_at_1(rows),
        "stderr": statistics.standard_error(rows),
        "pass_at_k": {k: statistics.pass_at_k(rows, k) for k in wanted},
        "majority": statistics.majority(rows) if samples > 1 else None,
    }


def _lengths(tokens: list[int]) -> dict[str, Any]:
    median = p90 = None
    if tokens:
        import numpy as np  # here, because most clients summarise nothing

        median, p90 = (float(value) for value in np.quantile(tokens, [0.5, 0.9]))
    return {
        "completion_tokens": _mean(tokens),
        "completion_tokens_median": median,
        "completion_tokens_p90": p90,
    }


def _outcomes(rows: list[Record]) -> dict[str, Any]:
    found = Counter(row.status for row in rows)
    answers = len(statistics.answered(rows))
    counts = {
        "truncated": found["truncated"],
        "no_answer": found["no_answer"],
        "unscored": sum(row.unscored for row in rows),
    }
    shares = {f"share_{name}": n / answers if answers else None for name, n in counts.items()}
    return {**counts, **shares, "errors": len(rows) - answers}


def _line(
    key: tuple[str, int | None, str | None], cells: dict[str, Summary], tasks: set[str]
) -> Line:
    model, budget, policy = key
    found = list(cells.values())
    seconds = sum(cell.wall_seconds for cell in found)
    tokens = sum(cell.n * (cell.completion_tokens or 0.0) for cell in found)

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == len(tasks) else None

    errors = [cell.stderr for cell in found if cell.stderr is not None]
    return Line(
        model=model,
        budget=budget,
        policy=policy,
        cells=cells,
        n=sum(cell.n for cell in found),
        pass_at_1=mean(cell.pass_at_1 for cell in found),
        stderr=math.hypot(*errors) / len(tasks) if len(errors) == len(tasks) else None,
        pass_at_k={
            k: mean(cell.pass_at_k.get(k) for cell in found)
            for k in sorted({k for cell in found for k in cell.pass_at_k})
        },
        majority=mean(cell.majority for cell in found),
        tokens_per_second=tokens / seconds if seconds > 0 and tokens else None,
        share_never_reached=mean(cell.share_never_reached for cell in found),
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
