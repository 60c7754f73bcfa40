"""What stands under each figure: what is drawn, n, the error bars, and what not to conclude."""

from collections.abc import Iterable, Sequence

from clients.report import words
from clients.report.differences import MEAN, Compared
from clients.report.figure import MOST
from clients.report.numbers import Summary, models_of, policies_of, tasks_of
from clients.report.sources import Source, of_model
from clients.statistics import RESAMPLES

ERROR_BARS = "error bars: one standard error, clustered by problem"
SPEED = (
    "tokens of complete answers divided by the wall clock of the cell, evictions and queueing "
    "included"
)


def tasks(summaries: Sequence[Summary], sources: Sequence[Source]) -> str:
    """Under the panels by task of one model."""
    model = summaries[0].model
    sentences = [
        f"Bars: mean Pass@1 of {words.answers(summaries)} per cell, "
        f"{words.decoding(of_model(sources, model))}; {ERROR_BARS}.",
        f"Line{_main(summaries)}: {SPEED}, {words.load(sources, model)}.",
        *_reading_bars(summaries),
        *_preempted(summaries),
        *_without_result(summaries),
        *words.notes(summaries),
    ]
    return " ".join(sentences)


def means(summaries: Sequence[Summary], sources: Sequence[Source]) -> str:
    """Under the means of all models."""
    own = {model: [s for s in summaries if s.model == model] for model in models_of(summaries)}
    sentences = [
        f"Bars: mean over {', '.join(tasks_of(summaries))}, each weighing the same, of Pass@1 of "
        f"{words.answers(summaries)} per task, {words.decoding(sources)}; {ERROR_BARS}.",
        f"Line{_main(summaries)}: {SPEED}, over all tasks, {'; '.join(_loads(own, sources))}.",
        *_reading_bars(summaries),
    ]
    if len({tuple(sorted(tasks_of(cells))) for cells in own.values()}) > 1:
        sentences.append("The models answered different tasks: their means cannot be compared.")
    return " ".join([*sentences, *words.notes(summaries)])


def frontier(summaries: Sequence[Summary], sources: Sequence[Source]) -> str:
    """Under the frontier of one model."""
    model = summaries[0].model
    several = len(tasks_of(summaries)) > 1
    sentences = [
        "Each point is a KV budget in tokens (its label) under a policy: "
        f"{'mean over the tasks of ' if several else ''}Pass@1 of {words.answers(summaries)} per "
        f"{'task' if several else 'cell'}, against {SPEED}, {words.load(sources, model)}; "
        f"{ERROR_BARS}. Speeds are of one pass each and have no error bar.",
        "Points on the grey line are not beaten in both; within the error bars neighbours are "
        "not told apart. The axes need not start at 0.",
    ]
    return " ".join([*sentences, *words.notes(summaries)])


def differences(compared: Sequence[Compared], sources: Sequence[Source]) -> str:
    """Under the differences of one model from its reference."""
    counts = sorted({c.problems for c in compared if c.task != MEAN})
    problems = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    drawn = words.decoding(of_model(sources, compared[0].model))
    below = "" if compared[0].kind == "whole cache" else " of the same policy"
    return (
        f"Pass@1 under a budget minus that of the {compared[0].kind}{below}, paired by problem, "
        f"{problems} problems per task, {drawn}; below 0 the budget costs accuracy. Bars: 95 % "
        f"percentile bootstrap over problems, {RESAMPLES:,} resamples. Filled: the interval "
        "excludes 0, which one in twenty does by chance where there is no difference; nothing is "
        "corrected for the number of comparisons. With few problems the interval is too narrow."
    )


def lengths(summaries: Sequence[Summary]) -> str:
    """Under the lengths of one model's answers."""
    return (
        f"Per cell {words.answers(summaries)}. Above: completion tokens of an answer, thinking "
        "included, the median (filled) and what nine of ten stay below (hollow); answers that "
        "reached the token limit count with the limit. Below: share of "
        "answers that were cut off before they gave a result (filled), and that ended without "
        "one or could not be scored in time (hollow). Cut-off and missing answers are wrong in "
        "Pass@1, so a budget that makes answers longer is also punished by the limit."
    )


def _main(summaries: Sequence[Summary]) -> str:
    """Which policy the line is of, where there are several."""
    policies = policies_of(summaries)
    return f" ({policies[0]})" if len(policies) > 1 else ""


def _loads(models: Iterable[str], sources: Sequence[Source]) -> list[str]:
    """What each server had to do; once where it is the same."""
    loads = {model: words.load(sources, model) for model in models}
    same = len(set(loads.values())) == 1
    return list(loads.values())[:1] if same else [f"{m}: {load}" for m, load in loads.items()]


def _reading_bars(summaries: Sequence[Summary]) -> list[str]:
    found = []
    if others := policies_of(summaries)[MOST:]:
        found.append(f"Not shown: {', '.join(others)}; see the figure of policies.")
    if any(s.budget is None for s in summaries):
        found.append("Dashed: height of the whole cache.")
    if any(s.budget is not None and s.share_never_reached for s in summaries):
        found.append(
            "Black line: share of problems whose answer was over before the budget was reached, "
            "which any policy gets for nothing."
        )
    return found


def _preempted(summaries: Sequence[Summary]) -> list[str]:
    preempted = sum(s.preemptions for s in summaries if s.budget is None)
    if not preempted:
        return []
    return [
        "A budget reserves its peak at the start; the whole cache takes blocks as answers grow "
        f"and was preempted {preempted} times where none was left."
    ]


def _without_result(summaries: Sequence[Summary]) -> list[str]:
    """The largest shares of truncated and missing answers of any cell."""
    worst = [
        max(s.share_truncated or 0.0 for s in summaries),
        max(s.share_no_answer or 0.0 for s in summaries),
    ]
    if not any(worst):
        return ["No answer was truncated or missing."]
    cut, missing = (f"{100 * share:.0f} %" for share in worst)
    return [
        f"Of the answers of a cell at most {cut} were truncated and {missing} ended without a "
        "result; both count as wrong."
    ]
