"""Whether the tests of an operation are green: what is not right is not timed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.results import ROOT

TESTS = ROOT / "tests" / "kernels"
PATIENCE = 150.0  # seconds for all tests


def complaints(operations: Mapping[str, str], tests: Path = TESTS) -> dict[str, str]:
    """Runs `<tests>/test_<operation>.py`, as far as it concerns the implementation.

    Processes run side by side, one per core. Triton's tests are those marked `gpu`.

    Args:
        operations: folders of `kernels/`, and which implementation of each is to be timed.
        tests: where the tests are.

    Returns:
        Why it is refused, by operation; nothing for those whose tests passed.
    """
    lacking = [name for name in operations if not (tests / f"test_{name}.py").exists()]
    names, workers = [name for name in operations if name not in lacking], os.cpu_count() or 1
    groups = [names[first::workers] for first in range(min(workers, len(names)))]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        runs = [
            pool.submit(
                _run, {name: operations[name] for name in group}, tests, Path(folder) / f"{i}.xml"
            )
            for i, group in enumerate(groups)
        ]
        found = {name: why for run in runs for name, why in run.result().items()}
    return found | {name: f"there is no test_{name}.py" for name in lacking}


def read_report(operations: Iterable[str], report: Path) -> dict[str, str]:
    """The same from a JUnit report that `pytest --junitxml` wrote."""
    outcomes: dict[str, list[str | None]] = {name: [] for name in operations}  # None: passed
    for case in ElementTree.parse(report).iter("testcase"):
        label = f"{case.get('classname')}.{case.get('name')}"
        bad = [child for child in case if child.tag in ("failure", "error")]
        skipped = case.find("skipped") is not None
        for name in operations:
            if f"test_{name}" in label.split(".") and not skipped:
                outcomes[name].append(f"{case.get('name')} is red" if bad else None)
    found = {}
    for name, results in outcomes.items():
        red = [why for why in results if why is not None]
        if red or not results:
            found[name] = red[0] if red else "none of its tests ran"
    return found


def _run(operations: Mapping[str, str], tests: Path, report: Path) -> dict[str, str]:
    if "triton" in operations.values():
        chosen = ["-m", "gpu", "-W", "default"]  # machines with GPUs have other versions
    else:
        chosen = ["-k", " or ".join(f"(test_{n} and {impl})" for n, impl in operations.items())]
    files = [str(tests / f"test_{name}.py") for name in operations]
    options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    options += [f"--junitxml={report}", "-c", str(ROOT / "pyproject.toml")]
    # reports name files by their path from rootdir; conftests are looked for up to confcutdir
    options += [f"--rootdir={tests}", f"--confcutdir={ROOT}"]
    command = [sys.executable, "-m", "pytest", *options, *chosen, *files]
    try:
        ended = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return dict.fromkeys(operations, f"its tests did not end within {PATIENCE:.0f} s")
    if not report.exists():
        said = " ".join((ended.stderr or ended.stdout).strip().splitlines()[-1:])
        return dict.fromkeys(operations, f"pytest ended with {ended.returncode}: {said}")
    return read_report(operations, report)
