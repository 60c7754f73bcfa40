"""The engine of a real model is killed in the middle of answers; the caller gets them whole."""

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from clients.local_server import LocalServer, local_servers
from clients.sdk import (
    AsyncClient,
    Chat,
    Completion,
    Gatherer,
    KvBudget,
    Request,
    RetryPolicy,
    Sampling,
    Tokens,
)
from clients.workloads.pocket import problems

MODEL = Path(__file__).parents[2] / "models" / "pocket-llama"
ENGINE = re.compile(r"engine ready: pocket-llama, pid (\d+)")
PATIENT = RetryPolicy(attempts=1000, initial_seconds=0.5, maximum_seconds=1.0)  # it loads anew


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with asyncio.Runner() as runner:
        logs = tmp_path_factory.mktemp("logs")
        context = local_servers([str(MODEL)], logs, ["--kv-blocks", "128", "--no-metrics"])
        [started] = runner.run(context.__aenter__())
        yield started
        runner.run(context.__aexit__(None, None, None))


async def watched(client: AsyncClient, request: Request, tokens: int, begun: asyncio.Queue[int]):  # type: ignore[no-untyped-def]
    """The answer; says so once it has `tokens` of them."""
    gatherer, seen = Gatherer(1, time.monotonic()), 0
    async with aclosing(client.generate(request)) as events:
        async for event in events:
            gatherer.add(event, time.monotonic())
            if isinstance(event, Tokens):
                if seen < tokens <= seen + len(event.ids):
                    begun.put_nowait(seen)
                seen += len(event.ids)
    return gatherer.completion()


def disturbed(server: LocalServer, requests: list[Request]) -> list[Completion]:
    """The answers, with the engine killed once each has 30 tokens."""

    async def scenario() -> list[Completion]:
        begun: asyncio.Queue[int] = asyncio.Queue()
        async with AsyncClient(server.target, retry=PATIENT) as client:
            asked = [
                asyncio.create_task(watched(client, request, 30, begun)) for request in requests
            ]
            for _ in requests:
                await asyncio.wait_for(begun.get(), 60)
            os.kill(int(ENGINE.findall(server.log.read_text())[-1]), signal.SIGKILL)
            return await asyncio.wait_for(asyncio.gather(*asked), 110)

    return asyncio.run(scenario())


def undisturbed(server: LocalServer, requests: list[Request]) -> list[Completion]:
    async def scenario() -> list[Completion]:
        async with AsyncClient(server.target, retry=PATIENT) as client:
            return await asyncio.gather(*(client.complete(request) for request in requests))

    return asyncio.run(scenario())


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
    expected = undisturbed(server, whole)
    *found, budgeted = disturbed(server, [*whole, *tight])
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
