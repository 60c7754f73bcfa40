"""The machine and the versions that a measurement ran on. No names or paths of this machine."""

import os
import platform
from importlib import metadata
from pathlib import Path

import msgspec

PACKAGES = ("sluice", "torch", "triton", "numba", "transformers", "grpcio", "protobuf")
CPU_INFO = Path("/proc/cpuinfo")


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where the client ran; the same machine as the server's in the demo."""

    cpu: str
    cores: int  # that this process may use
    system: str
    python: str
    packages: dict[str, str]  # versions by name, of those installed here


def environment() -> Environment:
    """Describes this process's machine."""
    return Environment(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := _version(name))},
    )


def _cpu() -> str:
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
