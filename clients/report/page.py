"""The report as one HTML file that needs nothing else: no network, no files beside it."""

from collections.abc import Mapping, Sequence

from clients.report import comparison, table, words
from clients.report.differences import Compared, Kind
from clients.report.findings import Findings
from clients.report.gallery import Plate
from clients.report.intervals import against_reference
from clients.report.markup import document, facts, heading, notes, paragraph, plate
from clients.report.markup import table as grid
from clients.report.numbers import Summary, policies_of
from clients.report.sources import Source

PAIRED = (
    "Paired by problem, in points of a hundred, with the 95 % bootstrap interval over problems; a "
    "star where it excludes 0, which one in twenty does by chance."
)


def render(findings: Findings, shared: Sequence[Plate], own: Mapping[str, Sequence[Plate]]) -> str:
    """The page; `shared` are the mean and the policies, `own` the figures of each model."""
    mean, policies = shared
    cells = findings.answered
    title = ", ".join(dict.fromkeys(source.manifest.run for source in findings.sources))
    parts = [
        heading(1, "Accuracy and throughput against the KV budget"),
        paragraph(
            "Every request chose its own KV budget: the most tokens its sequence may hold in the "
            "cache. All numbers were measured through the gRPC service."
        ),
        *notes([*words.notes(cells), *words.disagreements(findings.sources)]),
        heading(2, "Mean over the tasks"),
        plate(mean),
        *(part for model in findings.models for part in _model(findings, model, own[model])),
        heading(2, "Policies"),
        plate(policies),
        *_policies(findings),
        heading(2, "How it was measured"),
        *(part for source in findings.sources for part in _run(source)),
        *_protection(cells),
        heading(2, "Reading it"),
        paragraph(
            "Judge a difference between budgets by its paired interval (differences.csv has all of "
            "them), not by comparing error bars. cells.csv and cells.json hold every number drawn, "
            "lm_eval/ the results in the format of lm-evaluation-harness, and rows.jsonl of each "
            "run every answer."
        ),
    ]
    return document(f"Sluice: {title}", parts)


def _model(findings: Findings, model: str, plates: Sequence[Plate]) -> list[str]:
    cells, compared = findings.of(model), findings.compared_of(model)
    tasks, frontier, differences, lengths = plates
    return [
        heading(2, model),
        plate(tasks),
        paragraph(
            "Pass@1 in per cent ± standard error clustered by problem; in brackets how many "
            "answers were truncated / without an answer / unscored. tok/s: delivered tokens per "
            "wall-clock second; after it totals over the tasks, evicted in KV tokens."
        ),
        grid(*table.cells_of(cells, counted=True)),
        *_samples(cells),
        heading(3, "Accuracy against throughput"),
        plate(frontier),
        heading(3, "Differences of Pass@1"),
        plate(differences),
        *_differences(compared),
        heading(3, "Length and truncation"),
        plate(lengths),
        paragraph("Tokens of an answer: median / nine of ten are at most this long."),
        grid(*table.lengths_of(cells)),
    ]


def _run(source: Source) -> list[str]:
    return [heading(3, source.manifest.run), facts(words.method(source))]


def _samples(cells: Sequence[Summary]) -> list[str]:
    headings, body = table.samples_of(cells)
    if not body:
        return []
    counts = sorted({cell.samples for cell in cells})
    most = str(counts[0]) if len(counts) == 1 else f"up to {counts[-1]}"
    return [
        heading(3, "Several answers to each problem"),
        paragraph(
            "Mean over the tasks in per cent. pass@k: one of k answers is right (unbiased "
            f"estimate). majority: the most frequent of all {most} answers is right; answers "
            "without a result do not vote, and a tie counts for its share. A dash: some problem "
            "has fewer than k scored answers."
        ),
        grid(headings, body),
    ]


def _differences(compared: Sequence[Compared]) -> list[str]:
    reference = against_reference(compared)
    parts = []
    if reference:
        parts += [
            paragraph(f"Each budget minus the {reference[0].kind}. {PAIRED}"),
            grid(*table.differences_of(reference)),
        ]
    if neighbours := _of_kind(compared, "next budget"):
        parts += [
            paragraph("Each budget minus the next larger one."),
            grid(*table.differences_of(neighbours)),
        ]
    return parts


def _policies(findings: Findings) -> list[str]:
    parts = []
    for model in findings.models:
        cells = findings.of(model)
        if len(policies_of(cells)) < 2:
            continue
        headings, body = comparison.cells_of(cells, findings.rows_of(model), findings.baseline)
        parts += [
            heading(3, model),
            paragraph(
                "Pass@1 in per cent, mean over the tasks, ± standard error clustered by problem; "
                f"a star where the paired interval of the difference from {findings.baseline} "
                "excludes 0."
            ),
            grid(headings, body, names=1),
        ]
        if others := _of_kind(findings.compared_of(model), "baseline policy"):
            parts += [paragraph(PAIRED), grid(*table.differences_of(others))]
    return parts


def _of_kind(compared: Sequence[Compared], kind: Kind) -> list[Compared]:
    return [c for c in compared if c.kind == kind]


def _protection(cells: Sequence[Summary]) -> list[str]:
    found = words.protection(cells)
    if not found:
        return []
    headings = ["policy", "budget", "oldest tokens pinned (mean)", "newest tokens", "per round"]
    return [
        heading(2, "What is never evicted"),
        paragraph(
            "Tokens that each policy must keep, and how many one eviction round frees. The pinned "
            "ones are the prompt."
        ),
        grid(headings, [[str(cell) for cell in line] for line in found]),
    ]
