"""The committed dashboards are what the code makes, and fit the screen and the data source."""

import importlib.util
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.metrics import ServiceMetrics
from service.totals import LoadTotals
from tests.deploy.files import DASHBOARDS, DEPLOY, expressions, panels, read_yaml
from tools.dashboards.catalogue import DASHBOARDS as MADE
from tools.dashboards.grafana import encode
from tools.dashboards.panels import Dashboard

PROVISIONING = DEPLOY / "grafana" / "provisioning"
ELSEWHERE = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}
needs_builders = pytest.mark.skipif(
    importlib.util.find_spec("grafana_foundation_sdk") is None,
    reason="grafana-foundation-sdk is not installed (pip install -e '.[dev]')",
)


@needs_builders
@pytest.mark.parametrize("dashboard", MADE, ids=lambda dashboard: dashboard.uid)
def test_the_committed_file_is_what_the_code_makes(dashboard: Dashboard) -> None:
    path = DEPLOY / "grafana" / "dashboards" / f"{dashboard.uid}.json"
    assert path.read_text() == encode(dashboard), "run: python -m tools.dashboards"


def test_there_is_a_file_for_every_dashboard_and_no_other() -> None:
    assert {path.stem for path in DASHBOARDS} == {dashboard.uid for dashboard in MADE}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_their_own_place_and_name(path: Path) -> None:
    found = panels(path)
    assert json.loads(path.read_text())["uid"] == path.stem
    assert len({panel["id"] for panel in found}) == len(found)
    assert len({panel["title"] for panel in found}) == len(found)
    assert all(panel["description"] and panel["targets"] for panel in found)
    places = [panel["gridPos"] for panel in found]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        assert not _overlap(one, other)
    rows = {place["y"] for place in places}
    widths = [sum(place["w"] for place in places if place["y"] == row) for row in rows]
    assert set(widths) == {24}, "a row is not full"


def test_they_draw_from_the_provisioned_source_and_are_found() -> None:
    [source] = read_yaml(PROVISIONING / "datasources" / "prometheus.yml")["datasources"]
    drawn = {panel["datasource"]["uid"] for path in DASHBOARDS for panel in panels(path)}
    assert drawn == {source["uid"]}
    config = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    [provider] = read_yaml(PROVISIONING / "dashboards" / "sluice.yml")["providers"]
    assert provider["type"] == "file"


def test_every_name_is_exported_and_every_metric_drawn() -> None:
    registry = CollectorRegistry()
    ServiceMetrics(registry, LoadTotals())
    exported = {
        family.name + "_total" * (family.type == "counter"): family.type
        for family in registry.collect()
    }
    drawn = set()
    for where, expr in expressions().items():
        for name in re.findall(r"[a-z0-9_]+(?=\{)", expr):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            histogram = exported.get(base) == "histogram"
            assert histogram or name in exported.keys() | ELSEWHERE, f"{where}: {name}"
            drawn.add(base if histogram else name)
    undrawn = {"sluice_cache_config_info", "sluice_kv_budget_waiting"}
    assert exported.keys() - drawn == undrawn


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )
