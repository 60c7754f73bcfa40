"""Consoles for tables."""

from rich.console import Console

PIPE_COLUMNS = 160  # rich assumes 80 where there is no terminal, and would cut tables


def wide_console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for every column of a table."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_COLUMNS)
