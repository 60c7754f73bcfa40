"""What `sluice doctor` says of the machine and the installation, whatever the model."""

import importlib.metadata
import os
import platform
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import msgspec
from packaging.requirements import Requirement

from service.config import ServiceConfig

OLDEST_PYTHON = (3, 11)
FILES_WANTED = 4096  # open at once: each connection is one
CGROUP = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")


class Level(StrEnum):
    """How well it is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"  # the service cannot start, or not as configured


class Finding(msgspec.Struct, frozen=True):
    """One line of the report."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def host_findings(config: ServiceConfig) -> list[Finding]:
    """Python, packages, cores, limits and ports."""
    return [_python(), *_packages(config), _processors(), _open_files(), *_ports(config)]


def available_memory() -> int:
    """Bytes that a new process may take: of the machine, or of this container if that is less."""
    lines = dict(line.split(":") for line in MEMORY.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    most, used = _cgroup("memory.max"), _cgroup("memory.current")
    return min(free, int(most) - int(used)) if most.isdigit() and used.isdigit() else free


def _python() -> Finding:
    text = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding(Level.FAIL, "python", text, "use Python 3.11 or newer")
    return Finding(Level.OK, "python", text)


def _packages(config: ServiceConfig) -> list[Finding]:
    """The installed packages against what this version of sluice asks for."""
    try:
        wanted = importlib.metadata.requires("sluice") or []
    except importlib.metadata.PackageNotFoundError:
        remedy = "install it: pip install -c constraints.txt -e ."
        return [Finding(Level.WARN, "packages", "sluice itself is not installed", remedy)]
    extra = "otel" if config.otlp_endpoint else ""
    return package_findings(wanted, importlib.metadata.version, extra)


def package_findings(
    wanted: list[str], version: Callable[[str], str], extra: str = ""
) -> list[Finding]:
    """One finding if all is as wanted, with what `extra` adds, else one for each that is not."""
    findings, count = [], 0
    for requirement in map(Requirement, wanted):
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        requirement.marker = None  # pip would heed it in the remedy
        count += 1
        remedy = f"pip install -c constraints.txt '{requirement}'"
        try:
            found = version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            text = f"{requirement.name} is missing"
            findings.append(Finding(Level.FAIL, "packages", text, remedy))
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            text = f"{requirement.name} is {found}, tested with {requirement.specifier}"
            findings.append(Finding(Level.WARN, "packages", text, remedy))
    return findings or [Finding(Level.OK, "packages", f"{count} as this version was tested with")]


def _processors() -> Finding:
    cores = len(os.sched_getaffinity(0))
    text = f"{cores} cores of {os.cpu_count()}"
    quota = _cgroup("cpu.max")
    if quota and quota.split()[0] != "max":
        share = int(quota.split()[0]) / int(quota.split()[1])
        text += f", of which this container gets {share:g}"
        cores = min(cores, int(share))
    if cores < 2:
        remedy = "give it 2 cores at least: one for the front, one for the engine"
        return Finding(Level.WARN, "processors", text, remedy)
    return Finding(Level.OK, "processors", text)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{_count(soft)} open files, {_count(hard)} at most"
    if soft != resource.RLIM_INFINITY and soft < FILES_WANTED:
        remedy = f"each connection is an open file: ulimit -n {FILES_WANTED * 16}"
        return Finding(Level.WARN, "limits", text, remedy)
    return Finding(Level.OK, "limits", text)


def _count(limit: int) -> str:
    return "no limit of" if limit == resource.RLIM_INFINITY else str(limit)


def _ports(config: ServiceConfig) -> Iterator[Finding]:
    """Whether the addresses could be listened on now; a running server of ours takes them."""
    addresses = [("--listen", config.host, config.listen.rpartition(":")[2])]
    if config.metrics_port is not None:
        addresses.append(("--metrics-port", config.metrics_host, str(config.metrics_port)))
    for flag, host, port in addresses:
        text = f"{host}:{port} for {flag}"
        try:
            _try_port(host, int(port))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it must be host:port"
            remedy = "is a server running already? Else choose another port, 0 for any free one"
            yield Finding(Level.WARN, "ports", f"{text}: {reason}", remedy)
        else:
            yield Finding(Level.OK, "ports", f"{text} is free")


def _try_port(host: str, port: int) -> None:
    """Listens for a moment.

    Raises:
        OSError: the address is taken, or not of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _cgroup(name: str) -> str:
    """A setting of this container; empty where there is none."""
    try:
        return (CGROUP / name).read_text().strip()
    except OSError:
        return ""
