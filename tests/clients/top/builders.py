"""What servers say, for tests."""

from typing import Any

from clients.top.watch import Look, Watch
from protos.sluice.v1 import sluice_pb2 as pb
from tests.clients.fake_sluice import model_info

BUSY: dict[str, Any] = {
    "running": 12,
    "waiting": 3,
    "blocks_used": 40,
    "blocks_free": 50,
    "blocks_cached": 10,
    "blocks_promised": 20,
    "blocks_shared": 5,
    "tokens_resident": 600,
    "generation_tokens_total": 1000,
    "tokens_evicted_total": {"r_kv": 500, "window": 0},
    "tokens_pressed_total": 7,
    "tokens_elastic": 80,
    "preemptions_total": 2,
    "budget_classes": [
        pb.BudgetClass(max_tokens=128, running=8, waiting=1, blocks=30, tokens_resident=400),
        pb.BudgetClass(max_tokens=0, running=4, waiting=2, blocks=15, tokens_resident=200),
    ],
    "first_token": pb.Latency(count=9, p50=0.031, p99=0.24),
    "inter_token": pb.Latency(count=900, p50=0.0071, p99=0.012),
    "request": pb.Latency(count=5, p50=2.5, p99=75),
}


def look(at: float = 0.0, uptime: float | None = None, **load: Any) -> Look:
    """A busy server at one moment, up since the beginning of time unless told otherwise."""
    server = pb.ServerInfo(
        version="0.1.0",
        uptime_seconds=100 + at if uptime is None else uptime,
        max_running=64,
        max_waiting=4096,
        engine_restarts=1,
    )
    return Look(at, server, pb.Load(**BUSY | load))


def watch(*looks: Look, target: str = "there:7700") -> Watch:
    """A viewer's knowledge after these looks."""
    found = Watch(target, model_info("pocket"))
    for each in looks:
        found.add(each)
    return found
