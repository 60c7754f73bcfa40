"""Service level objectives: the most a request may take."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clients.errors import LoadError

METRICS = ("ttft", "tpot", "e2el")  # as in `vllm bench serve --goodput`
ALIASES = {"e2e": "e2el"}


@dataclass(frozen=True)
class Slo:
    """One objective."""

    metric: str  # of METRICS
    milliseconds: float

    def __str__(self) -> str:
        return f"{self.metric}:{self.milliseconds:g}"

    def holds(self, seconds: Mapping[str, float | None]) -> bool:
        """Whether a request with these latencies holds it.

        One token has no time per further token, and holds that objective.
        """
        value = seconds[self.metric]
        return value is None or 1000 * value <= self.milliseconds


def parse_slos(texts: Iterable[str]) -> tuple[Slo, ...]:
    """["ttft:500", "e2e:30000"], in milliseconds. Raises LoadError naming the wrong one."""
    slos: dict[str, Slo] = {}
    for text in texts:
        name, _, limit = text.strip().partition(":")
        metric = ALIASES.get(name, name)
        try:
            milliseconds = float(limit)
        except ValueError:
            milliseconds = -1.0
        if metric not in METRICS or metric in slos or not 0 <= milliseconds < float("inf"):
            raise LoadError(
                f"got --slo {text!r}; want METRIC:MILLISECONDS, each metric once, of "
                f"{', '.join(METRICS)}; for example ttft:500"
            )
        slos[metric] = Slo(metric, milliseconds)
    return tuple(slos.values())
