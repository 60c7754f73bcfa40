"""The Grafana dashboards of deploy/grafana, from typed code: python -m tools.dashboards."""
