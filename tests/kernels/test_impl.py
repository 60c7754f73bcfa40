"""Which implementation runs, and that none is replaced silently."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import impl as module
from kernels.impl import Impl, resolve, set_cpu_threads
from tests.conftest import GPU

ROOT = Path(__file__).parents[2]


def test_none_chooses_by_device_and_dtype() -> None:
    assert resolve(None, torch.zeros(1)) is Impl.NUMBA
    assert resolve(None, torch.zeros(1, dtype=torch.float8_e4m3fn)) is Impl.NUMBA
    assert resolve(None, torch.zeros(1, dtype=torch.bfloat16)) is Impl.REFERENCE
    assert resolve(None, torch.zeros(1, device="meta")) is Impl.REFERENCE


@pytest.mark.gpu
def test_gpu_tensors_choose_triton_and_refuse_numba() -> None:
    tensor = torch.zeros(1, device="cuda")
    assert resolve(None, tensor) is Impl.TRITON
    with pytest.raises(ValueError, match="float32 on cuda:0"):
        resolve("numba", tensor)


def test_names_and_members_are_obeyed() -> None:
    assert resolve("reference", torch.zeros(1)) is Impl.REFERENCE
    assert resolve(Impl.NUMBA, torch.zeros(1)) is Impl.NUMBA


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="impl is 'flash'; allowed: triton, numba, reference"):
        resolve("flash", torch.zeros(1))


def test_numba_refuses_what_it_cannot_take() -> None:
    with pytest.raises(ValueError, match=r"got torch\.bfloat16 on cpu"):
        resolve(Impl.NUMBA, torch.zeros(1, dtype=torch.bfloat16))


def test_triton_takes_cpu_tensors_only_under_the_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve("triton", torch.zeros(1)) is Impl.TRITON
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match=r"got torch\.float32 on cpu.*TRITON_INTERPRET=1"):
        resolve("triton", torch.zeros(1))


def test_a_missing_package_is_an_error_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_installed", lambda package: False)
    assert resolve(None, torch.zeros(1)) is Impl.REFERENCE
    with pytest.raises(ImportError, match="needs the package numba"):
        resolve("numba", torch.zeros(1))
    set_cpu_threads(10_000)  # nothing to set


def test_thread_counts_outside_the_pool_are_refused() -> None:
    numba = pytest.importorskip("numba")
    most = numba.config.NUMBA_NUM_THREADS
    set_cpu_threads(1)
    assert numba.get_num_threads() == 1
    set_cpu_threads(most)
    assert numba.get_num_threads() == most
    for count in (0, most + 1):
        with pytest.raises(ValueError, match=f"asked for {count} threads; allowed: 1 to {most}"):
            set_cpu_threads(count)


def test_importing_the_operations_imports_neither_triton_nor_numba() -> None:
    code = (
        "import sys, torch, kernels.write_kv, kernels.paged_decode, kernels.paged_prefill;"
        "import kernels.compact_kv, kernels.window_attention, kernels.key_redundancy;"
        "import kernels.trigonometric_score, kernels.select_entries;"
        "import kernels.rms_norm, kernels.silu_mul, kernels.rotary_write, kernels.sample;"
        "print({'triton', 'numba'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def late(source: str) -> list[str]:
    """Functions that numba compiles at their first call, among those that it keeps on disk: the
    others are parts of these."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            calls = [each for each in node.decorator_list if isinstance(each, ast.Call)]
            kept = [c for c in calls if any(word.arg == "cache" for word in c.keywords)]
            found += [node.name for call in kept if not call.args]
    return found


def test_numba_compiles_when_a_kernel_is_loaded_and_not_in_a_request() -> None:
    """Each names its types; the engine loads all of them before it is ready."""
    sources = {path.parent.name: path.read_text() for path in ROOT.glob("kernels/*/cpu.py")}
    assert sum("cache=True" in source for source in sources.values()) > 10
    assert not {name: found for name, source in sources.items() if (found := late(source))}
    assert late("@njit(cache=True, nogil=True)\ndef lazy(x): ...") == ["lazy"]


@pytest.mark.skipif(GPU, reason="the interpreter is on only where there is no GPU")
def test_the_tests_run_under_the_interpreter() -> None:
    triton = pytest.importorskip("triton")
    assert triton.knobs.runtime.interpret
