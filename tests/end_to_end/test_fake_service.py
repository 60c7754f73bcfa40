"""Clients against the real service: two processes, real gRPC, the model that needs no weights."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from clients import records
from clients.errors import Aborted, InvalidRequest
from clients.local_server import LocalServer, local_servers
from clients.sdk import Accepted, AsyncClient, Client, Completion, KvBudget, Sampling, Stopping

ROOT = Path(__file__).parents[2]
BUDGET = 64
LONG = Stopping(max_tokens=150, ignore_eos=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A small pool, so that requests queue; slow enough steps that they can be caught running."""
    logs = tmp_path_factory.mktemp("logs")
    options = ["--kv-blocks", "64", "--fake-step-seconds", "0.0005", "--no-metrics"]
    with asyncio.Runner() as runner:
        context = local_servers(["fake"], logs, options)
        [started] = runner.run(context.__aenter__())
        yield started
        runner.run(context.__aexit__(None, None, None))
    assert "Traceback" not in started.log.read_text()


def talk(server: LocalServer, call: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
    async def scenario() -> Any:
        async with AsyncClient(server.target) as client:
            return await call(client)

    return asyncio.run(scenario())


async def idle(client: AsyncClient) -> None:
    """Returns once nothing runs and no block is held; the test's own limit ends the wait."""
    while True:
        load = await client.load()
        if (load.running, load.waiting, load.blocks_used, load.blocks_promised) == (0, 0, 0, 0):
            return
        await asyncio.sleep(0.05)


def sluice(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


def test_generate_from_the_command_line(server: LocalServer) -> None:
    arguments = ["generate", "hello", "--server", server.target, "--kv-budget", str(BUDGET)]
    arguments += ["--max-tokens", "90", "--seed", "5"]
    first, second = sluice(*arguments), sluice(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip()
    assert first.stdout == second.stdout
    assert f"KV budget {BUDGET}" in first.stderr


def test_a_budget_too_small_is_one_line_and_exit_code_1(server: LocalServer) -> None:
    done = sluice("generate", "hello", "--server", server.target, "--kv-budget", "5")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "kv_budget.max_tokens" in done.stderr


def test_a_sweep_from_the_command_line(server: LocalServer, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["sweep", "--server", server.target, "--datasets", "hop,memo", "--out", str(out)]
    arguments += ["--budgets", f"full,{BUDGET}", "--policies", "window", "--n", "6"]
    arguments += ["--max-tokens", "120"]
    done = sluice(*arguments)
    assert done.returncode == 0, done.stderr
    rows = records.read(out / "rows.jsonl")
    assert len(rows) == 2 * 2 * 6
    for row in rows:
        total = row.prompt_tokens + row.completion_tokens
        assert row.kv_tokens_peak <= (row.budget or total)
        assert row.budget is None or row.kv_blocks_peak <= -(-row.budget // 16)
        assert (row.kv_tokens_evicted > 0) == (total - 1 > (row.budget or total))
    cells = json.loads((out / "cells.json").read_text())["cells"]
    assert [cell["n"] for cell in cells] == [6] * 4
    again = sluice(*arguments)
    assert again.returncode == 0
    assert records.read(out / "rows.jsonl") == rows


def test_every_answer_keeps_its_own_budget(server: LocalServer) -> None:
    budgets = [64, 80, 96, 112, 0]

    async def many(client: AsyncClient) -> list[Completion]:
        return await asyncio.gather(
            *(
                client.complete(
                    f"request {index}",
                    kv_budget=KvBudget(max_tokens=budgets[index % len(budgets)]),
                    stopping=LONG,
                    sampling=Sampling(seed=index),
                )
                for index in range(40)
            )
        )

    answers = talk(server, many)
    for index, answer in enumerate(answers):
        budget = budgets[index % len(budgets)]
        assert answer.accepted.kv_budget == budget
        assert answer.usage.completion_tokens == 150
        assert len(answer.output.token_ids) == 150
        assert answer.usage.kv_tokens_peak <= (budget or 10_000)
        assert (answer.usage.eviction_rounds > 0) == (budget > 0)
        assert not (budget and answer.usage.preemptions)
    talk(server, idle)


def test_a_budget_of_the_whole_length_changes_nothing(server: LocalServer) -> None:
    with Client(server.target) as client:
        free = client.complete("same", kv_budget=KvBudget(max_tokens=0), stopping=LONG)
        seed = Sampling(seed=free.accepted.seed)
        wide = client.complete(
            "same", kv_budget=KvBudget(max_tokens=500), stopping=LONG, sampling=seed
        )
        assert wide.output.token_ids == free.output.token_ids
        assert wide.usage.kv_tokens_evicted == 0


def test_a_refused_field_is_named(server: LocalServer) -> None:
    with Client(server.target) as client, pytest.raises(InvalidRequest) as caught:
        client.complete("x", kv_budget=KvBudget(max_tokens=96, policy="no such policy"))
    assert [violation.field for violation in caught.value.violations] == ["kv_budget.policy"]


def test_leaving_frees_everything(server: LocalServer) -> None:
    endless = Stopping(max_tokens=900, ignore_eos=True)

    async def leave(client: AsyncClient) -> None:
        async with aclosing(client.generate("x", stopping=endless)) as events:
            async for event in events:
                assert isinstance(event, Accepted)
                break
        await idle(client)

    talk(server, leave)


def test_abort_ends_the_stream(server: LocalServer) -> None:
    endless = Stopping(max_tokens=900, ignore_eos=True)

    async def abort(client: AsyncClient) -> None:
        async with aclosing(client.generate("x", stopping=endless)) as events:
            accepted = await anext(events)
            assert isinstance(accepted, Accepted)
            assert await client.abort(accepted.request_id) == 1
            with pytest.raises(Aborted):
                async for _ in events:
                    pass
        await idle(client)

    talk(server, abort)
