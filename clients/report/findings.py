"""Everything that a report shows, computed once: figures, page and files only draw it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.errors import DataError
from clients.records import Record
from clients.report.differences import BASELINE, Compared, compare
from clients.report.numbers import Summary, models_of, policies_of, summarise
from clients.report.sources import Source, load, merge


@dataclass(frozen=True)
class Findings:
    """The numbers of one run or several."""

    sources: list[Source]
    rows: list[Record]
    summaries: list[Summary]  # of every cell
    compared: list[Compared]
    baseline: str  # the policy that others are compared with

    @property
    def answered(self) -> list[Summary]:
        """The cells with at least one answer; only they can be drawn."""
        return [s for s in self.summaries if s.n]

    @property
    def models(self) -> list[str]:
        return models_of(self.answered)

    def of(self, model: str) -> list[Summary]:
        """The cells of one model with at least one answer."""
        return [s for s in self.answered if s.model == model]

    def compared_of(self, model: str) -> list[Compared]:
        return [c for c in self.compared if c.model == model]

    def rows_of(self, model: str) -> list[Record]:
        return [row for row in self.rows if row.model == model]


def find(directories: Sequence[Path], baseline: str | None = None) -> Findings:
    """Reads and computes. Without `baseline` it is the server's default, or the first policy.

    Raises:
        DataError: a directory holds no run, two runs contradict each other, there are no answers,
            or no row has the policy `baseline`.
    """
    sources = load(directories)
    rows = merge(sources)
    summaries = summarise(rows)
    if not any(summary.n for summary in summaries):
        where = " and ".join(str(directory) for directory in directories)
        why = "every request failed" if rows else "there are no rows yet"
        raise DataError(f"{where}: no answers to report on; {why}")
    policies = policies_of(summaries)
    if baseline is not None and baseline not in policies:
        raise DataError(
            f"no row has the policy {baseline!r} to compare with; there are "
            f"{', '.join(policies) or 'none, only the whole cache'}"
        )
    if baseline is None:
        baseline = BASELINE if BASELINE in policies or not policies else policies[0]
    return Findings(sources, rows, summaries, compare(rows, baseline), baseline)
