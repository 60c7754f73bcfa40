"""Benchmarks from the Hugging Face hub, through `datasets`, which keeps what it has fetched."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from clients.errors import DataError
from clients.workloads import rows
from clients.workloads.problem import Problem


@dataclass(frozen=True)
class HubSet:
    """Where a benchmark lives."""

    id: str
    split: str
    problems: int  # that it is known to have; anything else is another data set
    config: str | None = None
    gated: bool = False


HUB_SETS: Mapping[str, HubSet] = MappingProxyType(
    {
        "aime24": HubSet("HuggingFaceH4/aime_2024", "train", 30),
        "aime25": HubSet("math-ai/aime25", "test", 30),
        "amc23": HubSet("math-ai/amc23", "test", 40),
        "gpqa_diamond": HubSet("Idavidrein/gpqa", "train", 198, "gpqa_diamond", gated=True),
    }
)


def load(task: str, n: int | None = None) -> list[Problem]:
    """The first `n` problems of a listed benchmark, or all of them.

    Raises:
        DataError: it cannot be had (no network, terms not accepted, no token), or is not what it
            was; says what to do.
    """
    known = HUB_SETS[task]
    fetched = _fetch(task, known)
    if len(fetched) != known.problems:
        raise DataError(
            f"{task}: {known.id} has {len(fetched)} rows where {known.problems} were expected; it "
            "was changed, so scores would not be comparable. Use a local copy: "
            f"{task}=FILE.jsonl"
        )
    found = [
        rows.problem(row, f"{known.id}, row {number}", task, number)
        for number, row in enumerate(fetched, start=1)
    ]
    return found[:n]


def _fetch(task: str, known: HubSet) -> list[dict[str, Any]]:
    import datasets  # here: it takes seconds to import, and most commands need none of it

    try:
        found = datasets.load_dataset(known.id, known.config, split=known.split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(f"{task}: {_refused(task, known)} ({_line(error)})") from error
    except (OSError, ValueError) as error:  # no network is a ConnectionError
        raise DataError(
            f"{task}: cannot fetch {known.id} from the Hugging Face hub ({_line(error)}). Without "
            f"a network use a copy that was fetched before, or a local file: {task}=FILE.jsonl"
        ) from error
    return [dict(row) for row in found]


def _refused(task: str, known: HubSet) -> str:
    if not known.gated:
        return f"the hub has no {known.id}; use a local file: {task}=FILE.jsonl"
    return (
        f"{known.id} is gated. Accept its terms on its page of the Hugging Face hub while logged "
        "in, then set HF_TOKEN to a token of that account that may read gated data sets (or run "
        f"`hf auth login`); or use a local copy: {task}=FILE.csv"
    )


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
