"""Sweeps through a scripted server: what is asked, what becomes a row, what is refused."""

import threading
from collections import Counter
from pathlib import Path

import grpc
import pytest

from clients import records
from clients.errors import DataError, SweepError
from clients.records import Cell, Record
from clients.sweep import cell
from clients.sweep.plan import Job, Settings, parse_budgets
from clients.sweep.run import MANIFEST, ROWS, read_manifest
from clients.workloads.problem import Problem
from protos.sluice.v1 import sluice_pb2 as pb
from tests.clients.builders import problem
from tests.clients.fake_sluice import Failure, FakeSluice, model_info
from tests.clients.sweeping import FULL, TIGHT, asked, plan, run

Code = grpc.StatusCode


def test_every_cell_is_measured_and_the_whole_cache_once(tmp_path: Path) -> None:
    fake = FakeSluice()
    rows = run(fake, plan(), tmp_path)
    counts = Counter(row.cell for row in rows)
    assert counts == {FULL: 3, TIGHT: 3, Cell("script", "t", 20, "window"): 3}
    assert all(row.correct and row.status == "ok" for row in rows)
    assert rows == records.read(tmp_path / ROWS)


def test_what_is_asked(tmp_path: Path) -> None:
    fake = FakeSluice()
    run(fake, plan(budgets=(None, 20), policies=("window",)), tmp_path)
    full, tight = asked(fake)[0], asked(fake)[-1]
    assert full.kv_budget == pb.KvBudget(max_tokens=0)
    assert tight.kv_budget == pb.KvBudget(max_tokens=20, policy="window")
    assert full.text.startswith("\\boxed")
    assert full.sampling.temperature == 0
    assert full.stopping.max_tokens == 50
    assert full.stream_interval == Settings.stream_interval
    assert full.model == "script"
    assert full.cache_salt != tight.cache_salt


def test_chat_input_where_the_model_has_a_template(tmp_path: Path) -> None:
    fake = FakeSluice(info=model_info(has_chat_template=True))
    rows = run(fake, plan(budgets=(None,)), tmp_path)
    assert all(request.chat.messages[0].role == "user" for request in asked(fake))
    assert all(row.correct for row in rows)


def test_a_row_holds_what_the_server_said(tmp_path: Path) -> None:
    rows = run(FakeSluice(), plan(1, policies=("r_kv",)), tmp_path)
    row = next(row for row in rows if row.cell == TIGHT)
    prompt = problem(0).prompt
    text = f"I think: {prompt}</think>{prompt}"
    length = len(prompt) + len(text)
    assert row.text == text
    assert (row.gold, row.extracted, row.finish_reason) == ("0", "0", "stop")
    assert (row.prompt_tokens, row.completion_tokens) == (len(prompt), len(text))
    assert (row.kv_tokens_peak, row.kv_tokens_evicted) == (20, length - 20)
    assert (row.recent_tokens, row.reclaim_tokens) == (8, 16)
    assert row.run == tmp_path.name
    assert row.first_token is not None
    assert 0 <= row.sent <= row.first_token <= row.end


def test_a_floor_makes_the_larger_budgets_elastic(tmp_path: Path) -> None:
    fake = FakeSluice()
    grid = plan(1, budgets=(None, 16, 40), settings=Settings(floor=20))
    rows = run(fake, grid, tmp_path)
    asked_for = {(r.kv_budget.max_tokens, r.kv_budget.min_tokens) for r in asked(fake)}
    assert asked_for == {(0, 0), (16, 16), (40, 20)}
    assert {(row.budget, row.min_tokens) for row in rows} == {(None, 0), (16, 16), (40, 20)}
    assert not any(row.failed for row in rows)


def test_samples_have_seeds_of_their_own_that_cells_share(tmp_path: Path) -> None:
    settings = Settings(samples=2, temperature=0.6, seed=3)
    rows = run(FakeSluice(), plan(2, policies=("r_kv",), settings=settings), tmp_path)
    seeds = {cell: [] for cell in (FULL, TIGHT)}
    for row in sorted(rows, key=lambda row: (row.problem, row.sample)):
        seeds[row.cell].append(row.seed)
    assert seeds[FULL] == seeds[TIGHT]
    assert len(set(seeds[FULL])) == 4
    assert seeds[FULL][0] == Job(problem(0), 0).seed(3) != Job(problem(0), 0).seed(4)


def test_truncated_answers_are_marked(tmp_path: Path) -> None:
    fake = FakeSluice(answer=lambda prompt: "thinking and th", truncated=True)
    rows = run(fake, plan(2, budgets=(None,)), tmp_path)
    assert {(row.status, row.correct) for row in rows} == {("truncated", False)}


def test_a_box_inside_unfinished_thinking_is_no_answer(tmp_path: Path) -> None:
    """The template opened <think> in the prompt; only the server knows that it never closed."""
    fake = FakeSluice(answer=lambda prompt: f"{prompt} but wait", truncated=True)
    usage = fake._finished

    def all_thinking(index: int, prompt: int, text: str, cap: int) -> pb.Finished:
        finished = usage(index, prompt, text, cap)
        finished.usage.reasoning_tokens = finished.usage.completion_tokens
        return finished

    fake._finished = all_thinking  # type: ignore[method-assign]
    rows = run(fake, plan(2, budgets=(None,)), tmp_path)
    assert {row.status for row in rows} == {"truncated"}


def test_failed_requests_are_rows(tmp_path: Path) -> None:
    bad = problem(1).prompt
    fake = FakeSluice(fail=lambda r: Failure(Code.INTERNAL, "nan") if r.text == bad else None)
    rows = run(fake, plan(3, budgets=(None,)), tmp_path)
    assert len(rows) == 3
    [row] = [row for row in rows if row.failed]
    assert row.problem == "t-1"
    assert row.error == "INTERNAL: nan"


def test_another_grant_than_asked_is_a_failure(tmp_path: Path) -> None:
    class Generous(FakeSluice):
        def _events(self, request: pb.GenerateRequest):  # type: ignore[no-untyped-def]
            request.kv_budget.max_tokens *= 2
            return super()._events(request)

    rows = run(Generous(), plan(1, budgets=(20,), policies=("r_kv",)), tmp_path)
    assert rows[0].failed
    assert "granted a budget of 40" in (rows[0].error or "")


def test_concurrency_is_bounded_and_used(tmp_path: Path) -> None:
    gate = threading.Event()
    fake = FakeSluice()
    real = fake.answer

    def slow(prompt: str) -> str:
        gate.wait(0.05)
        return real(prompt)

    fake.answer = slow
    run(fake, plan(12, budgets=(None,), settings=Settings(concurrency=3)), tmp_path)
    assert fake.most_running == 3


def test_a_warm_up_comes_first_and_leaves_no_row(tmp_path: Path) -> None:
    fake = FakeSluice()
    rows = run(fake, plan(1), tmp_path)
    warm_up = [request for request in fake.requests if not request.cache_salt]
    assert [request.kv_budget.policy for request in warm_up] == ["", "r_kv", "window"]
    assert all(request.cache_salt for request in fake.requests[len(warm_up) :])
    assert len(rows) == 3


def test_a_limit_the_model_undercuts_is_left_to_the_server(tmp_path: Path) -> None:
    fake = FakeSluice(info=model_info(max_sequence_tokens=100))
    run(fake, plan(1, budgets=(None,), settings=Settings(max_tokens=100)), tmp_path)
    assert not asked(fake)[0].stopping.HasField("max_tokens")
    assert read_manifest(tmp_path / MANIFEST).settings.max_tokens == 100


def test_recipes_multiple_choice_and_stop_strings(tmp_path: Path) -> None:
    choice = Problem("1", "t", "Which? \\boxed{B}", "B", options=("one", "two"), bare=True)
    fake = FakeSluice()
    wanted = plan([choice], settings=Settings(prompt="lm_eval"), budgets=(None,))
    [row] = run(fake, wanted, tmp_path)
    [request] = asked(fake)
    assert request.text.startswith("What is the correct answer to this question:Which?")
    assert request.text.endswith("(A) one\n(B) two\nLet's think step by step: ")
    assert list(request.stopping.stop) == ["Question:"]
    assert (row.correct, row.extracted, row.gold, row.options) == (True, "B", "B", ("one", "two"))


def test_a_recipe_that_does_not_fit_is_refused_before_the_start(tmp_path: Path) -> None:
    choice = Problem("1", "t", "Which?", "B", options=("one", "two"), bare=True)
    wanted = plan([choice], settings=Settings(prompt="r_kv"))
    with pytest.raises(DataError, match="no form for multiple choice"):
        run(FakeSluice(), wanted, tmp_path)
    assert not (tmp_path / ROWS).exists()


def test_a_slow_verdict_keeps_no_request_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone_asked = threading.Event()
    fake = FakeSluice()
    fake.fail = lambda r: everyone_asked.set() if len(asked(fake)) == 3 else None

    def slow(row: Record) -> Record:
        assert everyone_asked.wait(10), "a request waited for a verdict"
        return row

    monkeypatch.setattr(cell, "verdict", slow)
    wanted = plan(3, budgets=(None,), settings=Settings(concurrency=1, max_tokens=50))
    assert len(run(fake, wanted, tmp_path)) == 3


# Servers and plans


def test_a_server_that_only_ever_refuses_ends_the_sweep(tmp_path: Path) -> None:
    fake = FakeSluice(fail=lambda r: Failure(Code.UNAVAILABLE) if r.cache_salt else None)
    with pytest.raises(SweepError, match=r"went away 3 times .*run the same command again"):
        run(fake, plan(1), tmp_path)
    assert records.read(tmp_path / ROWS) == []  # no answer, and nothing that looks like one


def test_an_outage_is_waited_for_and_starts_a_segment(tmp_path: Path) -> None:
    def fail(request: pb.GenerateRequest) -> Failure | None:
        return Failure(Code.UNAVAILABLE) if request.cache_salt and len(asked(fake)) == 4 else None

    fake = FakeSluice(fail=fail)
    wanted = plan(6, budgets=(None,), settings=Settings(concurrency=1, max_tokens=50))
    rows = run(fake, wanted, tmp_path)
    assert [row.segment for row in rows] == [0, 0, 0, 1, 1, 1]
    assert len(asked(fake)) == 7
    assert not any(row.failed for row in rows)
    assert len((tmp_path / ROWS).read_text().splitlines()) == 6


def test_what_others_had_begun_is_finished_when_a_server_goes_away(tmp_path: Path) -> None:
    """Two servers of one model: the answers of the healthy one are kept."""
    release = threading.Event()

    def fail(request: pb.GenerateRequest) -> Failure | None:
        if not request.cache_salt or len(asked(sick)) > 1:
            return None
        release.set()
        return Failure(Code.UNAVAILABLE)

    healthy, sick = FakeSluice(hold=release), FakeSluice(fail=fail)
    healthy.fail = lambda r: None if r.cache_salt else release.set()  # the warm-up need not wait
    sick.fail = fail
    wanted = plan(2, budgets=(None,), settings=Settings(concurrency=2, max_tokens=50))
    rows = run([healthy, sick], wanted, tmp_path)
    assert sorted(row.segment for row in rows) == [0, 1]
    assert len(asked(healthy)) + len(asked(sick)) == 3


def test_several_servers_are_several_models(tmp_path: Path) -> None:
    fakes = [FakeSluice(info=model_info(name)) for name in ("one", "two")]
    rows = run(fakes, plan(2, budgets=(None,)), tmp_path)
    assert Counter(row.model for row in rows) == {"one": 2, "two": 2}
    assert set(read_manifest(tmp_path / MANIFEST).servers) == {"one", "two"}


def test_servers_of_one_model_share_its_requests(tmp_path: Path) -> None:
    fakes = [FakeSluice(), FakeSluice()]
    rows = run(fakes, plan(6, budgets=(None,)), tmp_path)
    assert len(rows) == 6
    assert all(asked(fake) for fake in fakes)
    assert read_manifest(tmp_path / MANIFEST).servers["script"].servers == 2
    unlike = [FakeSluice(), FakeSluice(info=model_info(total_blocks=7))]
    with pytest.raises(SweepError, match="serve script in different ways"):
        run(unlike, plan(1), tmp_path / "unlike")


def test_what_a_server_would_refuse_is_said_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="script has no policy 'h2o'; it has r_kv, window"):
        run(FakeSluice(), plan(policies=("h2o",)), tmp_path)
    capped = FakeSluice(info=model_info(max_kv_budget=64))
    with pytest.raises(SweepError, match="allows budgets of 1 to 64 tokens; got full"):
        run(capped, plan(), tmp_path)
    with pytest.raises(SweepError, match="got 65"):
        run(capped, plan(budgets=(65,)), tmp_path)
    assert asked(capped) == []


def test_no_policy_means_the_servers_default() -> None:
    info = model_info()
    assert [cell.policy for cell in plan(policies=()).cells(info)] == [None, "r_kv"]


def test_budgets_as_text() -> None:
    assert parse_budgets("full, 96,128") == (None, 96, 128)
    assert parse_budgets("2500") == (2500,)
    assert parse_budgets("full,2500:3500:500,96") == (None, 2500, 3000, 3500, 96)
    assert parse_budgets("5:5:1") == (5,)
    for text, message in [
        ("", "at least one"),
        ("96,96", "only once"),
        ("0", "got the budget '0'"),
        ("-1", "got the budget '-1'"),
        ("many", "got the budget 'many'"),
        ("2500:5000", "got the budget '2500:5000'"),
        ("2500:5100:500", "a whole number of steps"),
        ("5000:2500:500", "got the budget '5000:2500:500'"),
        ("1:2:0", "got the budget '1:2:0'"),
        ("1::2", "got the budget '1::2'"),
        ("96:98:1,97", "only once"),
    ]:
        with pytest.raises(SweepError, match=message):
            parse_budgets(text)
