"""The directory of a run."""

from pathlib import Path

from clients.errors import LoadError

NUMBERS, ROWS, PAGE = "load.json", "requests.jsonl", "load.html"


def check_free(directory: Path) -> None:
    """Raises LoadError where the directory holds a run already."""
    if (directory / NUMBERS).exists():
        raise LoadError(f"{directory} holds a load test; choose another --out")


def make(directory: Path) -> None:
    """Makes it, or raises LoadError; done before the run, which should not be lost."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoadError(f"cannot make the directory {directory}: {error}") from error
