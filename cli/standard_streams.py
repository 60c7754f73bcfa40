"""Standard streams that are closed, full or read by nobody: a server goes on without them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def expendable_streams() -> Iterator[None]:
    """Loses what is written to them where it cannot be, and lets that change nothing else.

    One that is closed is opened on the null device: its number would go to a socket, and what C
    libraries print with it. What a full disk did not take is dropped at the end, or Python's own
    attempt to write it would turn the exit code into 120.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this
            os.set_inheritable(number, True)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                _flush_or_drop(stream)


def _flush_or_drop(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
