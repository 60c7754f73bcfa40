"""benchmarks.kernels: what is timed, what is counted, and what is refused."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import typer

from benchmarks import kernel_tests, kernels, timing
from benchmarks.kernel_bytes import MUST_MOVE
from kernels.compact_kv import cases as compact_cases
from kernels.paged_decode import cases as decode_cases
from kernels.write_kv import cases as write_cases

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two operations, quickly timed, by the threads that other tests use."""
    monkeypatch.setattr(
        kernels, "operations", lambda _: {"select_entries": "numba", "write_kv": "numba"}
    )
    monkeypatch.setattr(kernels, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(kernels, "SECONDS", 0.001)
    monkeypatch.setattr(kernels, "set_cpu_threads", lambda _: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(timing, "COPIED", {"cpu": 1 << 16})


def test_every_operation_with_cases_is_timed() -> None:
    on_cpu, on_gpu = kernels.operations(CPU), kernels.operations(CUDA)
    assert on_cpu.keys() == on_gpu.keys()
    assert {"paged_decode", "write_kv", "compact_kv"} <= on_cpu.keys()
    assert on_cpu["paged_decode"] == "numba"
    assert set(on_gpu.values()) == {"triton"}
    assert {name for name, _ in kernels.cases(on_gpu, CUDA, quick=False)} == on_gpu.keys()


def test_an_operation_whose_bytes_are_not_known_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(MUST_MOVE, "write_kv")
    with pytest.raises(LookupError, match=r"no entry for \['write_kv'\]"):
        kernels.operations(CPU)


def test_a_cpu_gets_what_numba_takes_and_a_gpu_the_shapes_that_matter() -> None:
    names = ("paged_decode", "write_kv")
    on_cpu = [(n, case.name) for n, case in kernels.cases(names, CPU, quick=True)]
    assert on_cpu == [
        ("paged_decode", "pocket-64x144"),
        ("paged_decode", "pocket-64x272"),
        ("write_kv", "pocket-64"),
    ]
    assert all(case.dtype is torch.float32 for _, case in kernels.cases(names, CPU, quick=False))
    on_gpu = [case for name, case in kernels.cases(names, CUDA, False) if name == "paged_decode"]
    assert len({case.name for case in on_gpu}) == len(on_gpu)
    shapes = {(case.kv_heads, case.group, len(case.lengths), case.lengths[0]) for case in on_gpu}
    for heads in ((8, 4), (4, 7)):
        for batch in (20, 64, 128, 256):
            assert {(*heads, batch, n) for n in range(2500, 5001, 500)} <= shapes


@pytest.mark.parametrize(("window", "entries"), [(None, 5 + 33), (24, 5 + 24)])
def test_a_decode_must_move_its_caches_queries_and_tables(window: int | None, entries: int) -> None:
    case = decode_cases.Case("x", (5, 33), kv_heads=2, group=3, head_dim=32, window=window)
    inputs = decode_cases.make(case)
    query = 2 * 6 * 32 * 4
    cache = entries * 2 * 2 * 32 * 4  # keys and values of two heads
    blocks = 1 + (3 if window is None else 2)
    counted = MUST_MOVE["paged_decode"](inputs, inputs["query"])
    assert counted == 2 * query + cache + blocks * 4 + 2 * 4


def test_a_write_must_move_what_is_not_padding() -> None:
    case = write_cases.Case("x", 7, kv_heads=2, head_dim=8, padding=3)
    per_token = 2 * (2 * 2 * 8 * 4 + 4 + 4) + 4  # in and out, position and mass; position in
    assert MUST_MOVE["write_kv"](write_cases.make(case), None) == 4 * per_token + 7 * 8


def test_a_rotation_must_read_the_projection_and_store_keys_and_values() -> None:
    inputs = write_cases.make(write_cases.Case("x", 5, kv_heads=2, head_dim=8, mass=False))
    inputs |= {"qkv": torch.zeros(5, 64), "cos": torch.zeros(5, 8), "sin": torch.zeros(5, 8)}
    inputs |= {"query_norm": None, "key_norm": torch.zeros(8)}
    read = 5 * (64 + 8 + 8) * 4 + 5 * (4 + 8) + 8 * 4
    stored = 5 * 2 * (2 * 8 * 4 + 4)
    queries = torch.zeros(5, 4, 8)
    assert MUST_MOVE["rotary_write"](inputs, queries) == read + stored + 5 * 4 * 8 * 4


@pytest.mark.parametrize("residual", [None, torch.zeros(3, 16)])
def test_a_norm_must_write_the_residual_it_reads(residual: torch.Tensor | None) -> None:
    hidden = torch.zeros(3, 16)
    inputs = {"hidden": hidden, "weight": torch.zeros(16), "eps": 1e-6, "residual": residual}
    rows = 2 if residual is None else 4
    assert MUST_MOVE["rms_norm"](inputs, hidden) == 4 * 16 + rows * 3 * 16 * 4


def test_a_compaction_must_move_what_changes_its_place() -> None:
    case = compact_cases.Case("x", (3,), count=2, layers=1, kv_heads=1, head_dim=8, mass=False)
    inputs = compact_cases.make(case)
    inputs["kept"] = torch.tensor([[[[0, 2]]]])
    assert MUST_MOVE["compact_kv"](inputs, None) == 2 * 8 + 2 * (2 * 8 * 4 + 4)


def stubs(folder: Path) -> None:
    """Tests of four operations: green, red, broken, and none that concerns numba."""
    green = "def test_numba_is_right(): pass\n"
    (folder / "test_write_kv.py").write_text(green)
    (folder / "test_compact_kv.py").write_text(green + "def test_numba_moves(): assert 1 == 2\n")
    (folder / "test_paged_decode.py").write_text("import nothing_of_this_name\n")
    (folder / "test_select_entries.py").write_text("def test_reference(): assert False\n")


def test_what_is_red_or_was_not_tested_is_refused(tmp_path: Path) -> None:
    stubs(tmp_path)
    names = ("write_kv", "compact_kv", "paged_decode", "select_entries")
    found = kernel_tests.complaints(dict.fromkeys(names, "numba"), tmp_path)
    assert found.keys() == {"compact_kv", "paged_decode", "select_entries"}
    assert found["compact_kv"] == "test_numba_moves is red"
    assert found["paged_decode"].endswith("is red")
    assert found["select_entries"] == "none of its tests ran"


def test_an_operation_without_tests_is_refused_alone(tmp_path: Path) -> None:
    stubs(tmp_path)
    found = kernel_tests.complaints({"write_kv": "numba", "sort": "numba"}, tmp_path)
    assert found == {"sort": "there is no test_sort.py"}


def test_a_refused_operation_is_not_timed_and_the_rest_is(
    short: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    stubs(tmp_path)
    (tmp_path / "test_select_entries.py").write_text("def test_numba_sorts(): assert False\n")
    run = kernel_tests.complaints
    monkeypatch.setattr(kernel_tests, "complaints", lambda timed: run(timed, tmp_path))
    with pytest.raises(typer.Exit) as ended:
        kernels.main(quick=True, device="cpu", stored=tmp_path)
    assert ended.value.exit_code == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["copy_bytes_per_second"] > 0
    assert said["fraction"].keys() == {"write_kv/pocket-64"}
    assert said["times_reference"].keys() == {"write_kv/pocket-64"}
    assert said["refused"] == {"select_entries/pocket-4x128": "test_numba_sorts is red"}
    rows = [json.loads(row) for row in (tmp_path / "kernels.jsonl").read_text().splitlines()]
    assert {row["operation"]: row["quick"] for row in rows} == {
        "select_entries": True,
        "write_kv": True,
    }


def test_rows_are_stored_and_what_fails_is_a_row(
    short: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr("kernels.write_kv.cases.make", broken)
    monkeypatch.setattr(kernel_tests, "complaints", lambda _: {})
    with pytest.raises(typer.Exit):
        kernels.main(device="cpu", stored=tmp_path)
    lines = (tmp_path / "kernels.jsonl").read_bytes().splitlines()
    rows = {row["operation"]: row for row in map(msgspec.json.decode, lines)}
    assert rows["write_kv"]["status"] == "failed"
    assert rows["write_kv"]["reason"] == "ValueError: no such thing"
    measured = rows["select_entries"]
    assert measured["status"] == "measured"
    bandwidth = measured["must_move"] / measured["seconds"]
    assert measured["fraction"] == pytest.approx(bandwidth / measured["copy_bandwidth"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"]


def test_no_case_starts_after_the_deadline(short: None) -> None:
    rows = kernels.run(CPU, quick=True, complaints={}, deadline=0.0)
    assert {row.status for row in rows} == {"skipped"}
    assert kernels.summary(rows)["fraction"] == {}
