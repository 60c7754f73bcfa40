"""The engine of a real model is killed in the middle of answers; the caller gets them whole."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.local_server import LocalServer, local_servers
from clients.sdk import Chat, KvBudget, Request, Sampling
from clients.workloads.pocket import problems
from tests.end_to_end.disturbance import disturbed, kill_engine, undisturbed

MODEL = Path(__file__).parents[2] / "models" / "pocket-llama"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with asyncio.Runner() as runner:
        logs = tmp_path_factory.mktemp("logs")
        context = local_servers([str(MODEL)], logs, ["--kv-blocks", "128", "--no-metrics"])
        [started] = runner.run(context.__aenter__())
        yield started
        runner.run(context.__aexit__(None, None, None))


def asked(budget: KvBudget, temperature: float, count: int) -> list[Request]:
    sampling = Sampling(temperature=temperature, seed=11)
    return [
        Request(Chat.user(problem.prompt), kv_budget=budget, sampling=sampling)
        for problem in problems("hop", count, seed=4)
    ]


def test_answers_survive_their_engine(server: LocalServer) -> None:
    """Under the whole cache they are the undisturbed ones; a budget is kept on the way."""
    whole = [*asked(KvBudget(), 0.0, 2), *asked(KvBudget(), 0.7, 2)]
    tight = asked(KvBudget(max_tokens=96, policy="window"), 0.0, 1)
    expected = asyncio.run(undisturbed(server.target, whole))
    *found, budgeted = asyncio.run(
        disturbed(server.target, [*whole, *tight], lambda: kill_engine(server))
    )
    assert [c.output.token_ids for c in found] == [c.output.token_ids for c in expected]
    assert [c.text for c in found] == [c.text for c in expected]
    for before, after in zip(expected, found, strict=True):
        assert before.usage.resumed_tokens == 0
        assert 30 <= after.usage.resumed_tokens < after.usage.completion_tokens
        assert after.usage.completion_tokens == before.usage.completion_tokens
        assert after.usage.reasoning_tokens == before.usage.reasoning_tokens
    assert budgeted.usage.kv_tokens_peak <= 96
    assert budgeted.usage.resumed_tokens >= 30
    assert budgeted.output.finish_reason in ("stop", "length")
