"""The directory of a run."""

from pathlib import Path

from clients.errors import LoadError

NUMBERS, ROWS, PAGE = "load.json", "requests.jsonl", "load.html"


def reserve(directory: Path) -> None:
    """Makes it; LoadError where it holds a run already, or cannot be made."""
    if (directory / NUMBERS).exists():
        raise LoadError(f"{directory} holds a load test; choose another --out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoadError(f"cannot make the directory {directory}: {error}") from error
