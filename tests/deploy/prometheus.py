"""A Prometheus of our own that scrapes one server with the configuration of deploy/prometheus."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.files import PROMETHEUS, read_yaml

INTERVAL = "1s"  # of scrapes and rules; the shipped ones would make a test long
START_SECONDS = 60.0


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str
    log: Path

    def ask(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer of its API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def series(self, expr: str, start: float, end: float) -> list[dict[str, Any]]:
        """What a panel draws: series with `metric` and `values`, [time, text] each."""
        found = self.ask("query_range", query=expr, start=start, end=end, step=1)["result"]
        return list(found)

    def value(self, expr: str) -> float:
        """An expression of one value, now."""
        [sample] = self.ask("query", query=expr)["result"]
        return float(sample["value"][1])


@contextmanager
def scraping(metrics: str, folder: Path) -> Iterator[Prometheus]:
    """Scrapes `metrics` (host:port) while the context is open; its data and log are in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    config = read_yaml(PROMETHEUS / "prometheus.yml")
    config["global"] = dict.fromkeys(config["global"], INTERVAL)
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [metrics]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={listen}"]
    found = Prometheus(f"http://{listen}", folder / "prometheus.log")
    with found.log.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait_ready(found, process)
            yield found
        finally:
            process.terminate()


def _wait_ready(prometheus: Prometheus, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, prometheus.log.read_text()
        assert time.monotonic() < deadline, f"not ready:\n{prometheus.log.read_text()}"
        try:
            with urllib.request.urlopen(f"{prometheus.url}/-/ready", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
