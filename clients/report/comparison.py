"""Policies side by side: one Markdown table per model, Pass@1 by budget, stars for differences."""

from collections.abc import Sequence
from statistics import fmean

from clients.records import Record
from clients.report.differences import BASELINE
from clients.report.numbers import Line, Summary, lines, models_of, policies_of, summarise
from clients.statistics import paired_difference


class Comparison:
    """The lines of one model by policy and budget."""

    def __init__(self, summaries: Sequence[Summary]) -> None:
        found = lines(summaries)
        self.model = summaries[0].model
        self.budgets = sorted({line.budget for line in found if line.budget is not None})
        self._lines = {(line.policy, line.budget): line for line in found}
        self.policies = sorted(policies_of(summaries), key=self.mean, reverse=True)

    @property
    def whole(self) -> Line | None:
        """The whole cache, if it was measured."""
        return self._lines.get((None, None))

    def line(self, policy: str, budget: int) -> Line | None:
        return self._lines.get((policy, budget))

    def mean(self, policy: str) -> float:
        """Mean Pass@1 over the budgets that were measured, 0 where none was."""
        found = [line.pass_at_1 for (name, _), line in self._lines.items() if name == policy]
        known = [value for value in found if value is not None]
        return fmean(known) if known else 0.0

    def is_complete(self, policy: str) -> bool:
        """Whether it was measured under every budget, so that its mean can be compared."""
        found = [self.line(policy, budget) for budget in self.budgets]
        return all(line is not None and line.pass_at_1 is not None for line in found)

    def floor(self, budget: int) -> float:
        """Share of problems whose answer was over before any policy could act."""
        line = next(line for (_, b), line in self._lines.items() if b == budget)
        return line.share_never_reached or 0.0


def comparison(rows: Sequence[Record], baseline: str = BASELINE) -> str:
    """One table per model in Markdown, as `cells_of` has it."""
    summaries = summarise(rows)
    names = policies_of(summaries)
    parts = []
    for model in models_of(summaries):
        own = [row for row in rows if row.model == model]
        headings, body = cells_of([s for s in summaries if s.model == model], own, baseline)
        coded = [[f"`{first}`" if first in names else first, *rest] for first, *rest in body]
        rule = ["---", *["---:"] * (len(headings) - 1)]
        parts += [f"### {model}", "", *map(_row, [headings, rule, *coded]), ""]
    return "\n".join(parts)


def cells_of(
    summaries: Sequence[Summary], rows: Sequence[Record], baseline: str = BASELINE
) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of one model, as text: a line per policy, the best on average first.

    Cells are Pass@1 in per cent, the mean over tasks, with its standard error clustered by problem.
    A star marks a difference from `baseline`, paired by problem, whose 95 % bootstrap interval
    excludes 0.
    """
    found = Comparison(summaries)
    body = []
    for policy in found.policies:
        cells = []
        for budget in found.budgets:
            line = found.line(policy, budget)
            starred = policy != baseline and _differs(rows, budget, policy, baseline)
            cells.append("-" if line is None else _percent(line) + (" *" if starred else ""))
        mean = f"{100 * found.mean(policy):.1f}" if found.is_complete(policy) else "-"
        body.append([policy, *cells, mean])
    floors = [f"{100 * found.floor(budget):.1f}" for budget in found.budgets]
    body.append(["never reach the budget", *floors, ""])
    if found.whole is not None:
        body.append(["whole cache", *[""] * len(found.budgets), _percent(found.whole)])
    return ["policy", *map(str, found.budgets), "mean"], body


def _differs(rows: Sequence[Record], budget: int, policy: str, baseline: str) -> bool:
    def of(name: str) -> list[Record]:
        return [row for row in rows if row.budget == budget and row.policy == name]

    difference = paired_difference(of(policy), of(baseline))
    return difference is not None and difference.excludes_zero


def _percent(line: Line) -> str:
    if line.pass_at_1 is None:
        return "-"
    error = "" if line.stderr is None else f" ± {100 * line.stderr:.1f}"
    return f"{100 * line.pass_at_1:.1f}{error}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
