"""The house: who may import whom, and how long a file or function may be. Read off the source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RULES = {  # package -> which of ours it may import
    "protos": set(),
    "kernels": set(),
    "scheduler": set(),
    "engine": {"scheduler", "kernels"},
    "service": {"protos", "engine"},
    "clients": {"protos"},
    "cli": {"service", "clients", "tools"},
    "tools": {"clients", "engine"},
    "benchmarks": {"clients", "service", "engine", "scheduler", "kernels"},
}
ONLY_IN = {  # library -> the packages, or single files, that may import it
    "torch": {"engine", "kernels", "tools", "benchmarks"},
    "triton": {"kernels"},
    "numba": {"kernels"},
    "transformers": {"engine", "tools", "benchmarks", "service/text.py"},
    "tokenizers": {"engine", "tools", "service/text.py", "service/control_tokens.py"},
    "grpc": {"service", "clients", "protos"},
    "prometheus_client": {"service"},
    "opentelemetry": {"service/tracing.py"},
    "matplotlib": {"clients"},
    "math_verify": {"clients/scoring/worker.py"},
    "datasets": {"clients/workloads/hub.py"},
    "lm_eval": {"clients"},
}
STANDARD_LIBRARY_ONLY = {"scheduler"}
SERVING = {"service", "scheduler", "engine", "kernels"}
WALL_CLOCKS = {  # they jump; durations and deadlines are measured on time.monotonic
    *("time.time", "time.time_ns", "time.localtime", "time.ctime", "time.asctime"),
    *("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.clock_gettime"),
}
DATED = {"service/tracing.py"}  # spans end at a time of day; how long they took is monotonic
FILE_LINES, FUNCTION_LINES, TRITON_LINES = 300, 50, 120
FILES = sorted(
    path for name in RULES for path in (ROOT / name).rglob("*.py") if "_pb2" not in path.name
)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def _violations(name: str, source: str) -> list[str]:
    """What `source`, as file `name`, does against the rules."""
    package = name.split("/")[0]
    found = []
    roots = {imported.split(".")[0] for imported in _imported(ast.parse(source))}
    ours = (roots & RULES.keys()) - RULES[package] - {package}
    found += [f"{package} may not import {other}" for other in sorted(ours)]
    for library, allowed in ONLY_IN.items():
        if library in roots and not {package, name} & allowed:
            found.append(f"{library} belongs in {sorted(allowed)}")
    if package in STANDARD_LIBRARY_ONLY:
        foreign = roots - set(sys.stdlib_module_names) - {package}
        found += [f"{package} is standard library only, not {other}" for other in sorted(foreign)]
    return found


def _wall_clocks(source: str) -> list[str]:
    """Where a source asks what time of day it is."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            name = ".".join(ast.unparse(node).split(".")[-2:])
            found += [f"line {node.lineno}: {name}"] if name in WALL_CLOCKS else []
        elif isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [f"line {node.lineno}: {name}" for name in names if name in WALL_CLOCKS]
    return found


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_follow_the_house(path: Path) -> None:
    assert not _violations(_name(path), path.read_text())


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_and_functions_stay_short(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= FILE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            limit = TRITON_LINES if path.name == "kernel.py" else FUNCTION_LINES
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= limit, f"{node.name} has {lines} lines"


def test_what_serves_never_asks_the_time_of_day() -> None:
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] in SERVING]
    assert len(files) > 50
    found = {_name(path): clocks for path in files if (clocks := _wall_clocks(path.read_text()))}
    assert found.keys() == DATED


@pytest.mark.parametrize(
    "source",
    [
        "import time\nx = time.time()",
        "from time import time",
        "import datetime\ndatetime.datetime.now()",
    ],
)
def test_the_time_of_day_is_found(source: str) -> None:
    assert _wall_clocks(source)
    assert not _wall_clocks("import time\nx = time.monotonic() + time.perf_counter()")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("scheduler/x.py", "import torch"),
        ("scheduler/x.py", "import msgspec"),
        ("clients/x.py", "from service.server import serve"),
        ("kernels/x.py", "from engine.kv_pool import KvPool"),
        ("service/x.py", "import transformers"),
        ("service/x.py", "from kernels.write_kv import write_kv"),
        ("engine/x.py", "def f():\n    import grpc"),
    ],
)
def test_the_rules_can_fail(name: str, source: str) -> None:
    assert _violations(name, source)


def test_every_package_is_in_the_rules() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} == RULES.keys()


def test_every_test_folder_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_transformers_does_not_take_our_kernels_for_its_own() -> None:
    """Our folder shares its name with Hugging Face's `kernels`, which transformers probes for."""
    code = (
        "from transformers.utils import is_kernels_available; import kernels;"
        "assert not is_kernels_available(); print(kernels.__file__)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(result.stdout.strip()) == ROOT / "kernels" / "__init__.py"
    assert len(ast.parse((ROOT / "kernels/__init__.py").read_text()).body) == 1, "docstring only"


def test_messages_and_configuration_come_without_torch() -> None:
    code = (
        "import sys, engine.messages, engine.config, engine.process;"
        "print(sorted({'torch', 'grpc', 'transformers'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_stubs_are_what_the_contract_generates(tmp_path: Path) -> None:
    contract = "protos/sluice/v1/sluice.proto"
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, contract]
    subprocess.run(command, cwd=ROOT, check=True)
    generated = sorted((tmp_path / "protos/sluice/v1").iterdir())
    assert len(generated) == 3
    for path in generated:
        assert path.read_text() == (ROOT / "protos/sluice/v1" / path.name).read_text(), path.name


def test_every_field_of_the_contract_has_a_comment() -> None:
    lines = (ROOT / "protos/sluice/v1/sluice.proto").read_text().splitlines()
    declaration = re.compile(r"^\s*(rpc |message |enum |service |oneof |.* = \d+;$)")
    bare = [
        f"{number}: {line.strip()}"
        for number, line in enumerate(lines[1:], 2)
        if declaration.match(line) and not lines[number - 2].strip().startswith("//")
    ]
    assert not bare
