"""How a command ends: 0 done, 1 failed with one clear line, 2 wrong usage, 130 interrupted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from clients.errors import SluiceError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


@contextmanager
def one_line_errors(code: int = FAILED, interrupted: str = "interrupted") -> Iterator[None]:
    """Turns an error of ours into one line on stderr and exit code `code`; Ctrl-C into 130.

    So it does what the system says of a file: no room, no right, not there.
    """
    try:
        yield
    except SluiceError as error:
        fail(str(error), code)
    except OSError as error:
        where = "" if error.filename is None else f": {error.filename}"
        fail(f"{error.strerror or error}{where}")
    except KeyboardInterrupt:
        fail(interrupted, INTERRUPTED)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Says why on stderr and ends the command."""
    typer.echo(f"sluice: {message}", err=True)
    raise typer.Exit(code)
