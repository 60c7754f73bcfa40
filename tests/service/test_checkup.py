"""What doctor finds, on machines that are not this one."""

import importlib.metadata
import resource
import socket
from pathlib import Path

import pytest

from engine.estimate import Machine, PoolEstimate
from service import checkup, host
from service.checkup import check_up, device_finding, kernels_finding, memory_finding, pool_finding
from service.config import EngineConfig, ServiceConfig
from service.host import Level, available_memory, host_findings, package_findings

GIB = 1 << 30


def pool(**changes: object) -> PoolEstimate:
    values: dict = {
        "kernels": "numba",
        "dtype": "float32",
        "kv_bytes_per_token": 1000,
        "pool_bytes_per_token": 1024,
        "weight_bytes": GIB,
        "max_sequence_tokens": 4096,
        "max_running": 64,
        "block_size": 16,
        "blocks": 1024,
        "limit": "--kv-blocks",
    }
    return PoolEstimate(**{**values, **changes})


def config(**changes: object) -> ServiceConfig:
    return ServiceConfig(listen="127.0.0.1:0", metrics_port=None, engine=EngineConfig(**changes))


def test_packages_against_what_is_asked() -> None:
    installed = {"a": "1.0", "b": "2.5"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    wanted = ["a==1.0", "b>=2,<2.6", 'c==1; extra == "dev"', 'd==1; sys_platform == "win32"']
    (finding,) = package_findings(wanted, version)
    assert (finding.level, finding.text) == (Level.OK, "2 as this version was tested with")
    first, second = package_findings(["a==1.1", "b==2.5", "gone>=3"], version)
    assert (first.level, first.text) == (Level.WARN, "a is 1.0, tested with ==1.1")
    assert first.remedy == "pip install -c constraints.txt 'a==1.1'"
    assert (second.level, second.text) == (Level.FAIL, "gone is missing")
    (missing,) = package_findings(wanted, version, "dev")
    assert missing.text == "c is missing"
    assert missing.remedy == "pip install -c constraints.txt 'c==1'"


def test_few_open_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, level in ((1024, Level.WARN), (4096, Level.OK), (resource.RLIM_INFINITY, Level.OK)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, 1 << 20))
        found = {f.subject: f for f in host_findings(config())}["limits"]
        assert found.level == level
        assert (level == Level.WARN) == found.remedy.endswith("ulimit -n 65536")


def test_a_port_that_is_taken_and_an_address_that_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = f"127.0.0.1:{port}"
        found = host_findings(ServiceConfig(listen=listen, metrics_host="", metrics_port=0))
    ports = [f for f in found if f.subject == "ports"]
    assert [f.level for f in ports] == [Level.WARN, Level.OK]
    assert ports[0].text == f"{listen} for --listen: Address already in use"
    (nonsense,) = [
        f for f in host_findings(ServiceConfig(listen="x:y", metrics_port=None)) if f.remedy
    ][-1:]
    assert "it must be host:port" in nonsense.text


def test_a_container_has_what_its_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal: 8388608 kB\nMemAvailable:    4194304 kB\nHugePages_Total: 0\n")
    monkeypatch.setattr(host, "MEMORY", memory)
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    assert available_memory() == 4 * GIB
    (tmp_path / "memory.max").write_text(f"{3 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    assert available_memory() == 2 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() == 4 * GIB
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    cores = {f.subject: f for f in host_findings(config())}["processors"]
    assert (cores.level, cores.text.endswith("gets 1")) == (Level.WARN, True)


def test_memory_counts_the_pool_where_it_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "available_memory", lambda: int(1.26 * GIB))
    assert memory_finding(pool(blocks=1), on_gpu=False).level == Level.OK
    assert memory_finding(pool(blocks=1024), on_gpu=False).level == Level.WARN  # 16 MiB more
    assert memory_finding(pool(blocks=1024), on_gpu=True).level == Level.OK


def test_kernels_that_are_not_the_fast_ones() -> None:
    assert kernels_finding(pool(), on_gpu=False).level == Level.OK
    slow = kernels_finding(pool(kernels="reference", dtype="bfloat16"), on_gpu=False)
    assert slow.level == Level.WARN
    assert "numba, which take float32" in slow.remedy
    assert kernels_finding(pool(kernels="triton"), on_gpu=True).level == Level.OK


def test_a_pool_that_cannot_hold_one_answer() -> None:
    assert pool_finding(pool(blocks=256)).level == Level.OK
    small = pool_finding(pool(blocks=255))
    assert small.level == Level.WARN
    assert "set --max-kv-budget to 4080 or less" in small.remedy


def test_a_gpu_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan\nGCC\n")
    monkeypatch.setattr(checkup, "NVIDIA_DRIVER", version)
    gpu = Machine("cuda", "Some GPU", "9.0", 80 * GIB, 70 * GIB, "CUDA 13.0")
    finding = device_finding(gpu)
    assert finding.level == Level.OK
    assert "Some GPU, compute capability 9.0, 70.0 of 80.0 GiB free" in finding.text
    assert finding.text.endswith("CUDA 13.0, driver 570.86.15")
    assert device_finding(Machine("cpu", "", "", 0, 0, "CUDA 13.0")).level == Level.WARN


def test_a_model_that_is_not_there_fails_and_the_rest_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    report = check_up(config(model=str(tmp_path / "none")))
    assert report.failed
    assert report.budgets == []
    assert {"python", "packages", "limits"} <= {f.subject for f in report.findings}
    last = report.findings[-1]
    assert (last.level, last.subject) == (Level.FAIL, "model")
    assert "\n" not in last.text
