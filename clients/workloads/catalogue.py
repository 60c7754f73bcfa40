"""Which problems there are to ask: pocket families, benchmarks of the hub, and files.

To add a benchmark list it in `hub.HUB_SETS`; to add a family list its generator in `pocket`.
"""

from collections.abc import Sequence
from pathlib import Path

from clients.errors import DataError
from clients.workloads import files, hub
from clients.workloads.hub import HUB_SETS
from clients.workloads.pocket import FAMILIES, problems
from clients.workloads.problem import Problem

NAMES = (*FAMILIES, *HUB_SETS)
PROBLEMS = 48  # of a pocket family, unless told otherwise


def choose(names: Sequence[str], n: int | None, seed: int) -> dict[str, tuple[Problem, ...]]:
    """Problems by task: `n` of each data set, or all it has.

    A name is one of NAMES, a path to a JSONL or CSV file, or `task=path` for a file under another
    name than its own. `seed` picks the problems of pocket families; a larger n extends the list and
    keeps its beginning.

    Raises:
        DataError: there are none, one is unknown or named twice, or it cannot be read.
    """
    if not names:
        raise DataError(f"no data sets given; there are {', '.join(NAMES)}, and files")
    if n is not None and n < 1:
        raise DataError(f"got {n} problems; want at least 1")
    found: dict[str, tuple[Problem, ...]] = {}
    for name in names:
        task, loaded = _load(name, n, seed)
        if task in found:
            raise DataError(f"the data set {task} is given twice; name one by NAME={name}")
        found[task] = tuple(loaded)
    return found


def _load(name: str, n: int | None, seed: int) -> tuple[str, list[Problem]]:
    task, separator, path = name.partition("=")
    if separator:
        return task, files.load(Path(path), n, task)
    if name in FAMILIES:
        return name, problems(name, n or PROBLEMS, seed)
    if name in HUB_SETS:
        return name, hub.load(name, n)
    if Path(name).suffix in files.SUFFIXES:
        return Path(name).stem, files.load(Path(name), n)
    raise DataError(
        f"unknown data set {name!r}; there are {', '.join(NAMES)}, and files in "
        f"{' or '.join(files.SUFFIXES)}"
    )
