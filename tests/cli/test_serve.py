"""The command line of `sluice serve`: every option reaches the configuration."""

import dataclasses
import inspect
import io
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import serve as module
from cli.main import app
from cli.serve_options import TEXTS
from service.config import ServiceConfig
from service.server import Server

VALUES = {
    "listen": "127.0.0.1:7",
    "default_policy": "h2o",
    "kernels": "numba",
    "log_level": "debug",
    "log_format": "json",
    "otlp_endpoint": "http://elsewhere:4317",
}


def served(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[ServiceConfig | None, str]:
    """The configuration that `sluice serve ...` would run, or None and what it complains of."""
    configs: list[ServiceConfig] = []

    async def run(config: ServiceConfig, announce: Any) -> int:
        configs.append(config)
        return 0

    monkeypatch.setattr(module, "run_service", run)
    result = CliRunner().invoke(app, ["serve", *arguments])
    return (configs[0] if configs else None), result.output


def flat(config: Any) -> dict[str, Any]:
    """{"engine.scheduler.max_running": ...} of a dataclass and those within."""
    fields = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        inner = flat(value) if dataclasses.is_dataclass(value) else {"": value}
        fields |= {f"{field.name}.{name}".rstrip("."): each for name, each in inner.items()}
    return fields


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_every_option_changes_one_thing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flag = f"--{name.replace('_', '-')}"
    kind = str(inspect.signature(module.serve).parameters[name].annotation)
    default, _ = served(monkeypatch)
    assert default is not None
    if "bool" in kind:
        sides = [[flag], [flag.replace("--", "--no-")]]
    elif "int" in kind or "float" in kind:
        sides = [[flag, "63"]]
    else:
        sides = [[flag, VALUES.get(name, "elsewhere")]]
    changed = set()
    for side in sides:
        config, output = served(monkeypatch, *side)
        assert config is not None, output
        changed |= {key for key, value in flat(config).items() if value != flat(default)[key]}
    assert len(changed) == 1, changed


def test_ways_to_run_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = served(monkeypatch, "--no-fused", "--no-static-steps", "--no-overlap")
    assert config is not None
    engine = config.engine
    assert (engine.fused, engine.static_steps, engine.overlap) == (False, False, False)


def test_an_fp8_cache_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = served(monkeypatch, "--kv-dtype", "fp8_e4m3")
    assert config is not None
    assert config.engine.kv_dtype == "fp8_e4m3"


def test_only_these_parameters_are_no_settings() -> None:
    parameters = inspect.signature(module.serve).parameters.keys()
    assert parameters - TEXTS.keys() == {"config", "print_config"}


@pytest.mark.parametrize("name", ["log_level", "log_format"])
def test_logging_that_is_not_known_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, output = served(monkeypatch, f"--{name.replace('_', '-')}", "loud")
    assert config is None
    assert output.startswith(f"sluice: {name} is 'loud'; allowed are ")
    assert output.count("\n") == 1


class Pieces(io.StringIO):
    """A file that keeps its writes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces += [text] if text else []
        return len(text)


def test_the_line_for_machines_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log goes to the same file from a thread of its own."""
    monkeypatch.setattr("sys.stdout", pieces := Pieces())
    module._announce(Server(ServiceConfig(listen="127.0.0.1:7")))
    assert pieces.pieces == ["sluice: serving fake on 127.0.0.1:0\n"]
