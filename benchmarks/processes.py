"""CPU time of other processes, read off /proc (Linux)."""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")  # per second
PARENT, USER, SYSTEM = 1, 11, 12  # fields of /proc/PID/stat, from the state on


def cpu_seconds(*pids: int) -> float:
    """User and system time of processes, with all their threads, so far."""
    return sum(int(_stat(pid)[field]) for pid in pids for field in (USER, SYSTEM)) / TICKS


def children(pid: int) -> list[int]:
    """Processes that `pid` started and that live."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(_stat(int(entry.name))[PARENT]) == pid:
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
