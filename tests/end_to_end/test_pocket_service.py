"""A real model through the real service: two processes, gRPC, paged attention, eviction."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from clients import records
from clients.local_server import LocalServer, local_servers
from clients.records import Record
from clients.sdk import AsyncClient, Chat, Client, Completion, KvBudget, Sampling, Stopping
from clients.sweep.plan import Plan, Settings
from clients.sweep.runner import sweep
from clients.workloads import files
from clients.workloads.pocket import problems
from tests.end_to_end.test_fake_service import idle
from tests.thorough import some

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "pocket-llama"
AIME = ROOT.parent / "shared" / "data" / "aime24.jsonl"
GREEDY = Sampling(temperature=0.0, seed=3)
WHOLE = KvBudget()  # the server sets none
POLICIES = ("h2o", "random", "key_diff", "r_kv", "snapkv", "window")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """pocket-llama with a pool that a few whole caches fill."""
    options = ["--kv-blocks", "128", "--max-running", "16", "--no-metrics"]
    with asyncio.Runner() as runner:
        context = local_servers([str(MODEL)], tmp_path_factory.mktemp("logs"), options)
        [started] = runner.run(context.__aenter__())
        yield started
        runner.run(context.__aexit__(None, None, None))
    assert "Traceback" not in started.log.read_text()


def answers(server: LocalServer, budgets: list[KvBudget]) -> list[Completion]:
    """The greedy answers to one problem each, all asked at once."""
    asked = problems("hop", len(budgets), seed=5)

    async def scenario() -> list[Completion]:
        async with AsyncClient(server.target) as client:
            calls = [
                client.complete(Chat.user(problem.prompt), sampling=GREEDY, kv_budget=budget)
                for problem, budget in zip(asked, budgets, strict=True)
            ]
            done = await asyncio.gather(*calls)
            await asyncio.wait_for(idle(client), 30)
            return done

    return asyncio.run(scenario())


def test_greedy_text_and_ids_are_those_of_plain_transformers(server: LocalServer) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    for problem, answer in zip(
        problems("hop", 2, seed=5), answers(server, [WHOLE] * 2), strict=True
    ):
        chat = [{"role": "user", "content": problem.prompt}]
        prompt = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        generated = model.generate(**prompt, max_new_tokens=600, do_sample=False)
        ids = generated[0, prompt["input_ids"].shape[1] :].tolist()
        assert list(answer.output.token_ids) == ids
        assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert answer.text.endswith(f"\\boxed{{{problem.answer}}}")
        assert answer.usage.completion_tokens == len(ids)


@pytest.mark.parametrize("policy", some(POLICIES, 3))
def test_every_policy_keeps_its_budget_beside_requests_without_one(
    server: LocalServer, policy: str
) -> None:
    budget = KvBudget(max_tokens=96, policy=policy)
    mixed = answers(server, [budget, WHOLE, budget, WHOLE])
    for answer in mixed[::2]:
        assert answer.usage.kv_tokens_peak == 96
        assert answer.usage.kv_tokens_evicted > 0
        assert answer.usage.kv_blocks_peak == 6
        assert answer.usage.preemptions == 0
    whole = answers(server, [WHOLE] * 4)
    assert [a.text for a in mixed[1::2]] == [a.text for a in whole[1::2]], "neighbours changed"
    repeated = answers(server, [budget, WHOLE, budget, WHOLE])
    assert [a.text for a in repeated] == [a.text for a in mixed], "not repeatable"


def test_a_budget_beyond_the_answer_changes_nothing(server: LocalServer) -> None:
    whole = answers(server, [WHOLE, WHOLE])
    budgeted = answers(server, [KvBudget(max_tokens=1000)] * 2)
    assert [a.output.token_ids for a in budgeted] == [a.output.token_ids for a in whole]
    assert [a.usage.kv_tokens_evicted for a in budgeted] == [0, 0]


def test_a_whole_cache_that_overfills_the_pool_is_preempted_and_still_right(
    server: LocalServer,
) -> None:
    crowd = answers(server, [WHOLE] * 12)
    few = [answers(server, [WHOLE] * i)[-1] for i in (1, 3)]
    assert sum(answer.usage.preemptions for answer in crowd) > 0
    assert [crowd[0].text, crowd[2].text] == [answer.text for answer in few]


def test_sampled_answers_repeat_with_their_seed(server: LocalServer) -> None:
    sampling = Sampling(temperature=1.0, seed=11, n=3, logprobs=2)
    with Client(server.target) as client:
        first, second = (
            client.complete("hop ", sampling=sampling, stopping=Stopping(max_tokens=20))
            for _ in range(2)
        )
    texts = [output.text for output in first.outputs]
    assert texts == [output.text for output in second.outputs]
    assert len(set(texts)) > 1, "outputs of one request draw differently"


def test_real_problems_are_answered_without_a_gap(server: LocalServer, tmp_path: Path) -> None:
    """A pocket model answers AIME with nonsense; every row must be complete all the same."""
    if not AIME.exists():
        pytest.skip(f"{AIME} is not there")
    rows = _sweep_file(server, AIME, tmp_path)
    assert len(rows) == 2 * 30
    assert {row.status for row in rows} <= {"ok", "no_answer", "truncated"}
    assert all(row.kv_tokens_peak <= 1400 for row in rows if row.budget)
    assert all(row.completion_tokens for row in rows)


def test_a_plain_file_of_problems_is_swept(server: LocalServer, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    mine = problems("duo", 3, seed=8)
    lines = [json.dumps({"prompt": p.prompt, "answer": p.answer}) for p in mine]
    path.write_text("\n".join(lines))
    rows = _sweep_file(server, path, tmp_path, max_tokens=500)
    assert all(row.correct for row in rows if row.budget is None)
    assert len(rows) == 6


def _sweep_file(server: LocalServer, path: Path, out: Path, max_tokens: int = 40) -> list[Record]:
    plan = Plan(
        problems={path.stem: tuple(files.load(path))},
        budgets=(None, 1400),
        settings=Settings(concurrency=8, max_tokens=max_tokens),
    )

    asyncio.run(sweep([server.target], plan, out / "run", Console(quiet=True)))
    return list(records.read(out / "run" / "rows.jsonl"))
