"""Policies side by side: one Markdown table per model, Pass@1 by budget, stars for differences."""

from collections.abc import Sequence
from statistics import fmean

from clients.records import Record
from clients.report.numbers import Line, Summary, lines, models_of, policies_of, summarise
from clients.statistics import paired_difference

BASELINE = "r_kv"  # the server's default


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
        """Mean Pass@1 over the budgets that were measured."""
        return fmean(
            line.pass_at_1 or 0.0 for (name, _), line in self._lines.items() if name == policy
        )

    def floor(self, budget: int) -> float:
        """Share of problems whose answer was over before any policy could act."""
        line = next(line for (_, b), line in self._lines.items() if b == budget)
        return fmean(cell.share_never_reached or 0.0 for cell in line.cells.values())


def comparison(rows: Sequence[Record], baseline: str = BASELINE) -> str:
    """One table per model: a line per policy, the best on average first.

    Cells are Pass@1 in per cent, the mean over tasks, with its standard error clustered by problem.
    A star marks a difference from `baseline`, paired by problem, whose 95 % bootstrap interval
    excludes 0.
    """
    summaries = summarise(rows)
    parts = []
    for model in models_of(summaries):
        found = Comparison([summary for summary in summaries if summary.model == model])
        own = [row for row in rows if row.model == model]
        parts += [f"### {model}", "", *_table(found, own, baseline), ""]
    return "\n".join(parts)


def _table(found: Comparison, rows: Sequence[Record], baseline: str) -> list[str]:
    table = [
        _row(["policy", *map(str, found.budgets), "mean"]),
        _row(["---", *["---:"] * (len(found.budgets) + 1)]),
    ]
    for policy in found.policies:
        cells = []
        for budget in found.budgets:
            line = found.line(policy, budget)
            starred = policy != baseline and _differs(rows, budget, policy, baseline)
            cells.append("-" if line is None else _percent(line) + (" *" if starred else ""))
        table.append(_row([f"`{policy}`", *cells, f"{100 * found.mean(policy):.1f}"]))
    floors = [f"{100 * found.floor(budget):.1f}" for budget in found.budgets]
    table.append(_row(["never reach the budget", *floors, ""]))
    if found.whole is not None:
        table.append(_row(["whole cache", *[""] * len(found.budgets), _percent(found.whole)]))
    return table


def _differs(rows: Sequence[Record], budget: int, policy: str, baseline: str) -> bool:
    def of(name: str) -> list[Record]:
        return [row for row in rows if row.budget == budget and row.policy == name]

    difference = paired_difference(of(policy), of(baseline))
    return difference is not None and not difference.low <= 0 <= difference.high


def _percent(line: Line) -> str:
    if line.pass_at_1 is None:
        return "-"
    error = "" if line.stderr is None else f" ± {100 * line.stderr:.1f}"
    return f"{100 * line.pass_at_1:.1f}{error}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
