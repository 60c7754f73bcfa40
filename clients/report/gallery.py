"""The figures of a report: each with the name of its file, or the reason why there is none."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clients.report import captions, curves, figure, frontier, intervals, lengths, words
from clients.report.findings import Findings
from clients.report.numbers import lines, policies_of, tasks_of
from clients.report.sheet import Picture

MEAN, POLICIES = "mean", "policies"  # the figures of all models


@dataclass(frozen=True)
class Plate:
    """One figure, or where the data do not allow it, why not."""

    name: str  # of its file, without ending
    alt: str  # for those who cannot see it
    picture: Picture | None
    reason: str = ""


def file_names(models: Sequence[str]) -> dict[str, str]:
    """What the files of each model are named after, without ending; no two alike."""
    found: dict[str, str] = {}
    for model in models:
        name = wanted = re.sub("[^A-Za-z0-9._-]+", "-", model).strip("-.") or "model"
        taken = {MEAN, POLICIES, *found.values()}
        number = 2
        while name in taken:
            name, number = f"{wanted}-{number}", number + 1
        found[model] = name
    return found


def shared(findings: Findings) -> list[Plate]:
    """The figures that show all models."""
    cells, sources, models = findings.answered, findings.sources, findings.models
    alt = "Pass@1 as bars and tokens per second as a line, mean over the tasks, by KV budget"
    if all(len(tasks_of(findings.of(model))) < 2 for model in models):
        reason = "a single task is its own mean"
        mean = Plate(MEAN, alt, None, reason)
    else:
        caption = captions.means(cells, sources)
        mean = Plate(MEAN, alt, figure.render_means(lines(cells), caption))
    alt = "Pass@1 against the KV budget, one line per policy"
    if len(policies_of(cells)) < 2:
        return [mean, Plate(POLICIES, alt, None, "fewer than two policies were measured")]
    caption = curves.caption(findings.rows, words.decoding(sources))
    return [mean, Plate(POLICIES, alt, curves.render(cells, caption))]


def of(findings: Findings, model: str) -> list[Plate]:
    """The figures of one model: by task, frontier, differences, lengths."""
    cells, sources = findings.of(model), findings.sources
    name = file_names(findings.models)[model]
    alt = f"{model}: Pass@1 as bars and tokens per second as a line against the KV budget"
    return [
        Plate(name, alt, figure.render(cells, captions.tasks(cells, sources))),
        _frontier(findings, model, f"{name}-frontier"),
        _differences(findings, model, f"{name}-differences"),
        Plate(
            f"{name}-lengths",
            f"{model}: tokens of an answer, and share of answers without a result, by KV budget",
            lengths.render(cells, captions.lengths(cells)),
        ),
    ]


def _frontier(findings: Findings, model: str, name: str) -> Plate:
    alt = f"{model}: Pass@1 against delivered tokens per second, a point per KV budget"
    cells = findings.of(model)
    found = lines(cells)
    if len(frontier.measured(found)) < 2:
        reason = "it takes two budgets with every task and a measured speed"
        return Plate(name, alt, None, reason)
    return Plate(name, alt, frontier.render(found, captions.frontier(cells, findings.sources)))


def _differences(findings: Findings, model: str, name: str) -> Plate:
    alt = f"{model}: difference of Pass@1 from the reference with its interval, by KV budget"
    found = intervals.against_reference(findings.compared_of(model))
    if not found:
        reason = "there is neither the whole cache nor a second budget to compare with"
        return Plate(name, alt, None, reason)
    return Plate(name, alt, intervals.render(found, captions.differences(found, findings.sources)))
