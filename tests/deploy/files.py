"""The files of deploy/, the tools that check them, and the expressions in them."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (apt-get install prometheus)",
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus (apt-get install prometheus)"
)


def promtool(*arguments: str | Path, text: str | None = None) -> str:
    """Runs promtool; what it printed, once it has ended with 0."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)],
        input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules(name: str) -> list[dict[str, Any]]:
    """The rules of a file of deploy/prometheus."""
    return [rule for group in read_yaml(PROMETHEUS / name)["groups"] for rule in group["rules"]]


def panels(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["panels"]
    return found


def expressions() -> dict[str, str]:
    """Every expression that a dashboard draws, its variables filled in, by where it stands."""
    return {
        f"{path.stem}: {panel['title']} {target['refId']}": fill_in(target["expr"])
        for path in DASHBOARDS
        for panel in panels(path)
        for target in panel["targets"]
    }


def fill_in(expr: str) -> str:
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    return expr
