"""What `sluice doctor` looks at: this machine, the installation, and what the model would get.

Every finding says what was found and, where it is not well, what to do. Changes nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from service.config import ServiceConfig
from service.host import Finding, Level, available_memory, host_findings

if TYPE_CHECKING:
    from engine.estimate import Machine, PoolEstimate

SPARE_MEMORY = 1.25  # of what weights and pool take, for the rest of two processes
GIB = 1 << 30
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class BudgetRow(msgspec.Struct, frozen=True):
    """How many requests of one KV budget run at once."""

    budget: int | None  # None: the whole cache
    blocks: int
    at_once: int
    limit: str


class Checkup(msgspec.Struct, frozen=True):
    """The whole report; `budgets` is empty where the model could not be read."""

    model: str
    findings: list[Finding]
    max_sequence_tokens: int = 0
    kv_bytes_per_token: int = 0
    kv_blocks: int = 0
    block_size: int = 0
    budgets: list[BudgetRow] = []

    @property
    def failed(self) -> bool:
        return any(finding.level == Level.FAIL for finding in self.findings)


def check_up(config: ServiceConfig) -> Checkup:
    """Looks at everything; no weights are loaded and no port stays open."""
    findings = host_findings(config)
    from engine import estimate  # torch and transformers take seconds to import

    engine = config.engine
    try:
        device = estimate.machine(engine.device)
        findings.append(device_finding(device))
        pool = estimate.pool_estimate(engine)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        remedy = "name a local directory or a hub id with --model, and see `sluice serve --help`"
        return Checkup(engine.model, [*findings, Finding(Level.FAIL, "model", first, remedy)])
    on_gpu = bool(device.name)
    findings += [kernels_finding(pool, on_gpu=on_gpu), memory_finding(pool, on_gpu=on_gpu)]
    findings.append(pool_finding(pool))
    return Checkup(
        model=engine.model,
        findings=findings,
        max_sequence_tokens=pool.max_sequence_tokens,
        kv_bytes_per_token=pool.kv_bytes_per_token,
        kv_blocks=pool.blocks,
        block_size=pool.block_size,
        budgets=[
            BudgetRow(row.budget, row.blocks, row.at_once, row.limit)
            for row in estimate.concurrency(pool)
        ],
    )


def device_finding(device: "Machine") -> Finding:
    """The device that the engine would use."""
    if not device.name:
        text = f"{device.device}; torch was built with {device.toolkit}"
        remedy = "fine for small models; larger ones need a GPU, and a torch built for it"
        return Finding(Level.WARN, "device", text, remedy)
    text = f"{device.device}: {device.name}"
    if device.capability:
        text += f", compute capability {device.capability}"
    text += f", {device.free_bytes / GIB:.1f} of {device.memory_bytes / GIB:.1f} GiB free"
    return Finding(Level.OK, "device", f"{text}; {device.toolkit}, {_driver()}")


def kernels_finding(pool: "PoolEstimate", *, on_gpu: bool) -> Finding:
    """Which kernels run, and whether they are those meant for the device."""
    meant = "triton" if on_gpu else "numba"
    text = f"{pool.kernels}, for {pool.dtype}"
    if pool.kernels in (meant, "none"):
        return Finding(Level.OK, "kernels", text)
    remedy = f"the fast ones here are {meant}"
    if not on_gpu:
        remedy += ", which take float32: leave --dtype and --kernels at auto"
    return Finding(Level.WARN, "kernels", text, remedy)


def memory_finding(pool: "PoolEstimate", *, on_gpu: bool) -> Finding:
    """Whether the machine's memory holds the weights, and on a CPU the pool."""
    taken = pool.weight_bytes
    if not on_gpu:
        taken += pool.blocks * pool.block_size * pool.pool_bytes_per_token
    free = available_memory()
    what = "weights" if on_gpu else "weights and KV pool"
    text = f"{free / GIB:.1f} GiB to be had; {what} take {taken / GIB:.2f} GiB"
    if taken * SPARE_MEMORY > free:
        remedy = "a smaller model or --kv-memory-gib, or more memory; the kernel may end the engine"
        return Finding(Level.WARN, "memory", text, remedy)
    return Finding(Level.OK, "memory", text)


def pool_finding(pool: "PoolEstimate") -> Finding:
    """The KV pool, and whether it holds one answer of the whole length."""
    tokens = pool.blocks * pool.block_size
    text = (
        f"{pool.blocks} blocks of {pool.block_size}: {tokens} KV tokens of "
        f"{pool.kv_bytes_per_token} bytes, by {pool.limit}"
    )
    if tokens < pool.max_sequence_tokens:
        remedy = (
            f"one answer of {pool.max_sequence_tokens} tokens does not fit: set --max-kv-budget "
            f"to {tokens} or less, or enlarge the pool"
        )
        return Finding(Level.WARN, "KV pool", text, remedy)
    return Finding(Level.OK, "KV pool", text)


def _driver() -> str:
    try:
        line = NVIDIA_DRIVER.read_text().splitlines()[0]
    except (OSError, IndexError):
        return "driver unknown"
    return "driver " + next((word for word in line.split() if word[0].isdigit()), line)
