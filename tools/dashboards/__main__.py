"""Writes deploy/grafana/dashboards anew: python -m tools.dashboards."""

from pathlib import Path

from tools.dashboards.catalogue import DASHBOARDS
from tools.dashboards.grafana import encode

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"

if __name__ == "__main__":
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(encode(dashboard))
