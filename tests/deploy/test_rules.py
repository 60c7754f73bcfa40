"""Prometheus reads what deploy/prometheus says, alerts fire when they should, runbooks exist."""

import re
from pathlib import Path

import yaml

from tests.deploy.files import PROMETHEUS, expressions, needs_promtool, promtool, rules

DOCUMENTS = Path(__file__).parents[2] / "docs"


@needs_promtool
def test_promtool_accepts_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / "prometheus.yml")


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", PROMETHEUS / "recording.yml", PROMETHEUS / "alerts.yml")


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", *sorted((PROMETHEUS / "tests").glob("*.yml")))


@needs_promtool
def test_every_expression_of_the_dashboards_parses(tmp_path: Path) -> None:
    recorded = [
        {"record": f"dashboard:expression{number}:drawn", "expr": expr}
        for number, expr in enumerate(expressions().values())
    ]
    path = tmp_path / "expressions.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": recorded}]}))
    promtool("check", "rules", path)


def test_every_alert_is_tested() -> None:
    tests = "".join(path.read_text() for path in (PROMETHEUS / "tests").glob("*.yml"))
    for rule in rules("alerts.yml"):
        assert f'{{alertname="{rule["alert"]}"}}' in tests, rule["alert"]


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    texts = "".join(path.read_text() for path in DOCUMENTS.glob("operations*.md"))
    headings = set(re.findall(r"^### (Sluice\w+)$", texts, re.MULTILINE))
    alerts = rules("alerts.yml")
    assert headings == {rule["alert"] for rule in alerts}
    for rule in alerts:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
