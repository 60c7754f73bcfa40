"""Options that several commands have, and a short way to declare the others."""

from typing import Annotated, Any

import typer

from clients.workloads.catalogue import NAMES

DEFAULT_SERVER = "127.0.0.1:7700"
DATASETS_HELP = f"of {', '.join(NAMES)}, or files in JSONL or CSV (FILE, or NAME=FILE); commas."


def option(text: str, *names: str) -> Any:
    """An option whose default the server or a dataclass knows, so that help does not print one."""
    return typer.Option(*names, help=text, show_default=False)


MaxTokens = Annotated[int | None, option("Most new tokens of an answer.")]
TopP = Annotated[float | None, option("Draw from the smallest set of this probability.")]
TopK = Annotated[int | None, option("Draw from this many most probable tokens.")]
Timeout = Annotated[float | None, option("Seconds that one answer may take.")]


def names(text: str | None) -> list[str]:
    """The parts of a list with commas, each once."""
    parts = [part.strip() for part in (text or "").split(",")]
    return list(dict.fromkeys(part for part in parts if part))
