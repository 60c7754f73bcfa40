"""A real Prometheus scrapes a loaded server: every panel and rule has data, and it is true."""

import asyncio
import json
import math
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clients.local_server import local_servers
from tests.deploy.files import expressions, needs_prometheus, needs_promtool, promtool, rules
from tests.deploy.prometheus import Prometheus, scraping

ROOT = Path(__file__).parents[2]
SERVER = (  # a pool that is too small, so that outputs wait, are pressed and preempted
    *("--metrics-port", "0", "--kv-blocks", "40", "--max-running", "8", "--max-batch-tokens", "64"),
    *("--fake-step-seconds", "0.002"),
)
LOAD = (
    *("--concurrency", "16", "--duration", "8", "--warm-up", "0", "--prefix-tokens", "32"),
    *("--prompt-tokens", "40:60", "--output-tokens", "60:200", "--mix", "budget=full"),
    *("--mix", "budget=96,policy=r_kv", "--mix", "budget=128,policy=window,floor=96"),
)
pytestmark = needs_prometheus


@dataclass(frozen=True)
class Loaded:
    """A server that was loaded while Prometheus scraped it."""

    prometheus: Prometheus
    metrics: str  # address of the server's metrics
    start: float
    end: float
    rows: list[dict[str, Any]]  # the client's record, one for each request


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    folder = tmp_path_factory.mktemp("scrape")
    with asyncio.Runner() as runner:
        context = local_servers(["fake"], folder, SERVER)
        [server] = runner.run(context.__aenter__())
        [metrics] = re.findall(r"metrics on http://([\d.:]+)/", server.log.read_text())
        with scraping(metrics, folder) as prometheus:
            _wait(prometheus, "up{job='sluice'} == 1")
            start, out = time.time(), folder / "load"
            command = [sys.executable, "-m", "cli.main", "load", "--server", server.target, *LOAD]
            subprocess.run([*command, "--out", str(out)], cwd=ROOT, check=True, timeout=100)
            lines = (out / "requests.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            # Ended in the books, and scraped after that.
            _wait(prometheus, f"sum(sluice_request_success_total) >= {len(rows)}")
            _wait(prometheus, "sum(sluice_num_requests_running) == 0")
            yield Loaded(prometheus, metrics, start, time.time(), rows)
        runner.run(context.__aexit__(None, None, None))


def _wait(prometheus: Prometheus, condition: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not prometheus.ask("query", query=condition)["result"]:
        assert time.monotonic() < deadline, f"did not come true in {seconds} s: {condition}"
        time.sleep(0.2)


def test_every_panel_has_data(loaded: Loaded) -> None:
    empty = [where for where, expr in expressions().items() if not _numbers(loaded, expr)]
    assert not empty


def test_every_rule_is_evaluated_and_has_data(loaded: Loaded) -> None:
    groups = loaded.prometheus.ask("rules")["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in evaluated} == {
        rule.get("record", rule.get("alert"))
        for name in ("recording.yml", "alerts.yml")
        for rule in rules(name)
    }
    assert [rule["name"] for rule in evaluated if rule["health"] != "ok"] == []
    for rule in rules("recording.yml"):
        assert _numbers(loaded, rule["record"]), rule["record"]


def test_every_alert_has_its_metrics(loaded: Loaded) -> None:
    """An alert on a name that nobody exports would never fire."""
    for rule in rules("alerts.yml"):
        for name in re.findall(r"\b(?:instance:)?(?:sluice|up)[a-z0-9_:]*", rule["expr"]):
            if name != "sluice":  # the job
                assert _numbers(loaded, name), f"{rule['alert']}: {name}"


def test_totals_are_what_the_client_got(loaded: Loaded) -> None:
    def total(expr: str) -> float:
        return loaded.prometheus.value(f"sum({expr})")

    rows = loaded.rows
    assert total("sluice_request_success_total") == len(rows)
    assert total('sluice_grpc_server_handled_total{method=~".*Generate",code="OK"}') == len(rows)
    for name, field in {
        "sluice_generation_tokens_total": "completion_tokens",
        "sluice_request_generation_tokens_sum": "completion_tokens",
        "sluice_prompt_tokens_total": "prompt_tokens",
        "sluice_request_prompt_tokens_sum": "prompt_tokens",
        "sluice_kv_tokens_evicted_total": "kv_tokens_evicted",
        "sluice_request_kv_peak_tokens_sum": "kv_tokens_peak",
        "sluice_num_preemptions_total": "preemptions",
    }.items():
        assert total(name) == sum(row[field] for row in rows), name
    budgets = [row["budget"] for row in rows if row["budget"]]
    assert total("sluice_request_kv_budget_tokens_count") == len(budgets)
    assert total("sluice_request_kv_budget_tokens_sum") == sum(budgets)
    assert total("sluice_requests_accepted_total{policy='none'}") == len(rows) - len(budgets)
    assert total("sluice_kv_blocks_leaked") == total("sluice_kv_blocks_used") == 0


def test_the_load_did_what_the_panels_are_for(loaded: Loaded) -> None:
    """Else zeros would pass for data."""
    for name in (
        *("sluice_num_requests_running", "sluice_kv_blocks_shared", "sluice_kv_tokens_elastic"),
        *("sluice_num_requests_waiting_by_reason", "sluice_generation_tokens_per_second"),
        *("sluice_kv_tokens_evicted_total", "sluice_kv_tokens_pressed_total"),
        *("sluice_num_preemptions_total", "sluice_prompt_tokens_cached_total"),
        *("sluice_kv_budget_running", "sluice_event_loop_lag_seconds"),
    ):
        assert max(_numbers(loaded, name)) > 0, name


@needs_promtool
def test_promtool_accepts_what_is_exported(loaded: Loaded) -> None:
    with urllib.request.urlopen(f"http://{loaded.metrics}/metrics", timeout=10) as response:
        promtool("check", "metrics", text=response.read().decode())


def _numbers(loaded: Loaded, expr: str) -> list[float]:
    """All that a panel would draw of an expression."""
    series = loaded.prometheus.series(expr, loaded.start, loaded.end)
    values = [float(value) for one in series for _, value in one["values"]]
    return [value for value in values if math.isfinite(value)]
