"""docs/operations.md lists every metric, and nothing else."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from service.metrics import ServiceMetrics
from service.totals import LoadTotals

DOCUMENTS = Path(__file__).parents[2] / "docs"


def expected() -> list[str]:
    """A line of the table for each family, in alphabetical order."""
    registry = CollectorRegistry()
    ServiceMetrics(registry, LoadTotals())
    lines = []
    for family in registry.collect():
        assert family.documentation.endswith("."), f"{family.name} has no help"
        name = family.name + "_total" * (family.type == "counter")
        labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()))
        lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return sorted(lines)


def test_the_table_is_what_is_exported() -> None:
    """Where it fails, put the expected lines into the table."""
    texts = [path.read_text() for path in sorted(DOCUMENTS.glob("operations*.md"))]
    lines = [line for text in texts for line in text.splitlines()]
    table = [line for line in lines if line.startswith("| `sluice_")]
    assert table == expected(), "expected:\n" + "\n".join(expected())
