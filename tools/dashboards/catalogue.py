"""All dashboards."""

from tools.dashboards.faults import FAULTS
from tools.dashboards.kv import KV
from tools.dashboards.latency import LATENCY
from tools.dashboards.overview import OVERVIEW

DASHBOARDS = (OVERVIEW, KV, LATENCY, FAULTS)
