"""What a dashboard is made of, and PromQL for it. Knows nothing of Grafana's JSON."""

from dataclasses import dataclass
from typing import Literal

OURS = '{instance=~"$instance"}'  # the replicas that the dashboard shows
WINDOW = "$__rate_interval"


@dataclass(frozen=True)
class Query:
    """One expression of a panel; `legend` may name labels in double braces."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One picture. `width` is in the 24 columns of Grafana's grid."""

    title: str
    description: str
    unit: str  # Grafana's id of it
    queries: tuple[Query, ...]
    width: int = 8
    kind: Literal["timeseries", "stat"] = "timeseries"
    stacked: bool = False
    most: float | None = None  # upper end of the axis
    bad_above: float | None = None  # a stat is red above this
    bad_below: float | None = None  # or below this


@dataclass(frozen=True)
class Dashboard:
    """A page of panels, laid out in rows from left to right."""

    uid: str
    title: str
    description: str
    panels: tuple[Panel, ...]


def rate(counter: str, *by: str, where: str = "") -> str:
    """Events per second, over the replicas shown. `where` is one more matcher."""
    matchers = OURS if not where else f"{OURS[:-1]},{where}}}"
    return f"sum{_by(by)}(rate({counter}{matchers}[{WINDOW}]))"


def total(gauge: str, *by: str) -> str:
    """Sum of a gauge over the replicas shown."""
    return f"sum{_by(by)}({gauge}{OURS})"


def worst(gauge: str, *by: str) -> str:
    """Largest value over the replicas shown."""
    return f"max{_by(by)}({gauge}{OURS})"


def least(gauge: str) -> str:
    """Smallest value over the replicas shown."""
    return f"min({gauge}{OURS})"


def quantile(share: float, histogram: str, *by: str) -> str:
    """A quantile of what was observed lately."""
    return f"histogram_quantile({share:g}, {rate(f'{histogram}_bucket', 'le', *by)})"


def mean(histogram: str) -> str:
    """The mean of what was observed lately; exact, where quantiles are within a bucket."""
    return ratio(rate(f"{histogram}_sum"), rate(f"{histogram}_count"))


def active(expr: str, label: str, idle: str) -> str:
    """Only what is not zero, and a zero labelled `idle`: a legend of dozens of zeros hides it."""
    return f'({expr} > 0) or label_replace(vector(0), "{label}", "{idle}", "", "")'


def split(counter: str, label: str, idle: str) -> Query:
    """Events per second by one label; `idle` is drawn where there are none."""
    return Query(active(rate(counter, label), label, idle), f"{{{{{label}}}}}")


def ratio(part: str, whole: str) -> str:
    """One rate over another; nothing while nothing happens."""
    return f"{part} / {whole}"


def quantiles(histogram: str, *shares: float) -> tuple[Query, ...]:
    """One query for each share, p50 and so on, and the mean."""
    drawn = tuple(Query(quantile(share, histogram), f"p{share * 100:g}") for share in shares)
    return (*drawn, Query(mean(histogram), "mean"))


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""
