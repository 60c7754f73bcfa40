"""Values read from files that may be replaced while the service runs: tokens, certificates."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Value = TypeVar("Value")
Signature = tuple[tuple[int, int, int], ...]


class Reloading(Generic[Value]):
    """What `read` makes of some files, read again when one of them changes. Any thread.

    A stat per file and look; what cannot be used leaves the last good value in force.
    """

    def __init__(self, what: str, files: Sequence[str], read: Callable[[], Value]) -> None:
        """Reads once.

        Raises:
            OSError, ValueError: the files cannot be used.
        """
        self._what = what
        self._files = files
        self._read = read
        self._lock = threading.Lock()
        self._signature = self._state()
        self._value = read()

    @property
    def value(self) -> Value:
        self.look()
        return self._value

    def look(self) -> None:
        """Reads the files if they have changed, as every use of the value does."""
        with self._lock:
            try:
                self._refresh()
            except (OSError, ValueError) as error:
                log.error("%s not reloaded, the old one stays in force: %s", self._what, error)

    def _refresh(self) -> None:
        try:
            signature = self._state()
        except OSError:
            return  # between the removal of the old file and the coming of the new one
        if signature != self._signature:
            self._signature = signature  # first, so that what cannot be used is told of once
            self._value = self._read()
            log.info("%s reloaded", self._what)

    def _state(self) -> Signature:
        found = [os.stat(file) for file in self._files]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)
