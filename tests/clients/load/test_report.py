"""What a load test leaves on disk and on the terminal."""

import base64
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from clients.environment import environment
from clients.errors import LoadError
from clients.load import table, words
from clients.load.arrivals import Call, ClosedLoop, Rate, Trace
from clients.load.directory import NUMBERS, PAGE, ROWS, check_free, make
from clients.load.files import numbers, write_run
from clients.load.lengths import parse_length
from clients.load.mix import parse_mix
from clients.load.numbers import summarise
from clients.load.plan import Plan
from clients.load.progress import LoadProgress
from clients.load.record import CUT
from clients.load.runner import Result, State
from clients.load.slo import parse_slos
from clients.load.watch import ServerLoad, Tick
from tests.clients.load.running import plan, result, row
from tests.clients.reports import facts
from tests.clients.test_page import NAMESPACES, References

BEGAN = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)
VLLM_NAMES = {  # of vllm/benchmarks/serve.py, without the fields of --save-detailed
    "date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts",
    "request_rate", "burstiness", "max_concurrency", "duration", "completed", "failed",
    "total_input_tokens", "total_output_tokens", "request_throughput", "request_goodput",
    "output_throughput", "total_token_throughput", "max_output_tokens_per_s",
    "max_concurrent_requests",
    *(
        f"{part}_{metric}_ms"
        for part in ("mean", "median", "std", "p90", "p99")
        for metric in ("ttft", "tpot", "itl", "e2el")
    ),
}  # fmt: skip
MIXED = plan(
    arrivals=Rate(8.0, 0.5),
    requests=None,
    duration=10.0,
    max_concurrency=64,
    mix=parse_mix(["budget=full", "budget=96,policy=r_kv,weight=2"]),
    slos=parse_slos(["ttft:600", "e2e:99000"]),
)


def a_result(wanted: Plan = MIXED, **changes: Any) -> Result:
    rows = [
        row(0, share="full", scheduled=9.0, counted=False),
        row(1, share="full"),
        row(2, share="96 r_kv", scheduled=11.0, due=12.0, sent=12.0, first_token=12.5, end=21.0,
            kv_tokens_evicted=50),
        row(3, share="full", status="RESOURCE_EXHAUSTED", error="RESOURCE_EXHAUSTED: full",
            first_token=None, chunk_times=[], chunk_tokens=[], completion_tokens=0),
        row(4, share="full", status=CUT, sent=None, first_token=None, chunk_times=[],
            chunk_tokens=[], completion_tokens=0),
    ]  # fmt: skip
    server = [
        ServerLoad(at=at, running=3, waiting=at, blocks_used=40, blocks_promised=10,
                   blocks_free=50, blocks_cached=10, preemptions_total=at)
        for at in range(20)
    ]  # fmt: skip
    ticks = [Tick(at / 10, 0.001, at / 50) for at in range(210)]
    fields = {"plan": wanted, "window": (10.0, 20.0), "rows": rows, "ticks": ticks,
              "server": server, "cut_lengths": 0, "interrupted": False}  # fmt: skip
    return Result(**fields | changes)


def document(run: Result) -> dict[str, Any]:
    return numbers(run, summarise(run), facts("m"), BEGAN, environment())


def written(directory: Path, run: Result) -> dict[str, Any]:
    make(directory)
    write_run(directory, run, summarise(run), facts("m"), BEGAN)
    found: dict[str, Any] = json.loads((directory / NUMBERS).read_text())
    return found


def test_numbers_have_the_names_of_vllm(tmp_path: Path) -> None:
    found = written(tmp_path / "run", a_result())
    assert set(found) >= VLLM_NAMES
    assert (found["model_id"], found["date"]) == ("m", "20261121-120030")
    assert (found["request_rate"], found["burstiness"], found["max_concurrency"]) == (8.0, 0.5, 64)
    assert (found["completed"], found["failed"], found["cut"]) == (2, 1, 1)
    assert found["mean_ttft_ms"] == pytest.approx((500 + 1500) / 2)
    assert found["mean_sent_ttft_ms"] == pytest.approx(500)
    assert found["request_goodput"] == pytest.approx(0.1)
    assert [share["share"] for share in found["shares"]] == ["full", "96 r_kv"]
    assert found["client_is_bottleneck"] is False
    assert len((tmp_path / "run" / ROWS).read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("arrivals", "said"),
    [
        (Rate(8.0, None), (8.0, "inf", None)),
        (ClosedLoop(5), ("inf", None, 5)),
        (Trace((Call(timestamp=0.0),), "t.jsonl"), (None, None, None)),
    ],
)
def test_how_arrivals_are_named(arrivals: Any, said: tuple[Any, ...]) -> None:
    found = document(a_result(plan(arrivals=arrivals)))
    assert (found["request_rate"], found["burstiness"], found["max_concurrency"]) == said


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    written(tmp_path / "run", a_result())
    text = (tmp_path / "run" / PAGE).read_text()
    page = References()
    page.feed(text)
    assert len(page.found) == 2
    for reference in page.found:
        kind, _, data = reference.partition(",")
        assert kind == "data:image/svg+xml;base64"
        svg = base64.b64decode(data).decode()
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert set(re.findall(r"https?://[^\"<]*", svg)) <= NAMESPACES
    assert "http" not in text
    assert str(tmp_path) not in text
    for said in [
        "open loop, 8 requests/s, gamma with burstiness 0.5 arrivals, at most 64 in flight",
        "1 request failed (1 RESOURCE_EXHAUSTED); the first: RESOURCE_EXHAUSTED: full",
        "1 request cut off",
        "96 r_kv (weight 2)",
        "10.0 s to 20.0 s",
        "288 blocks of 16 tokens",
    ]:
        assert said in page.text, said


@pytest.mark.parametrize(
    "run",
    [
        result([], (0.0, 0.0)),
        result([row(0, status="UNAVAILABLE", chunk_times=[], chunk_tokens=[], first_token=None)]),
        result([row(0)], (10.0, 10.9), plan(slos=parse_slos(["ttft:1", "tpot:99999"]))),
    ],
    ids=["nothing", "failures", "one"],
)
def test_runs_with_next_to_nothing_are_written_too(tmp_path: Path, run: Result) -> None:
    written(tmp_path / "run", run)
    table.show(summarise(run), run.plan, [], Console(file=io.StringIO()))


def test_names_are_escaped(tmp_path: Path) -> None:
    run = result([], (0.0, 0.0), plan(arrivals=Trace((Call(timestamp=0.0),), "<b>[red]x")))
    written(tmp_path / "run", run)
    assert "<b>[red]" not in (tmp_path / "run" / PAGE).read_text()


def test_a_directory_is_used_once(tmp_path: Path) -> None:
    make(tmp_path / "run")
    check_free(tmp_path / "run")
    (tmp_path / "run" / NUMBERS).touch()
    with pytest.raises(LoadError, match="holds a load test; choose another --out"):
        check_free(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(LoadError, match="cannot make the directory"):
        make(tmp_path / "file")


def shown(run: Result) -> str:
    console = Console(file=io.StringIO(), width=160)
    summary = summarise(run)
    table.show(summary, run.plan, words.notes(run, summary), console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_table() -> None:
    text = re.sub(r" +", " ", shown(a_result()))
    for said in [
        "requests 4 scheduled, 2 ok, 1 failed, 1 cut off, after 1 of warm-up",
        "TTFT, time to first token 1,000 500 1,000 1,400 1,490",
        "TTFT from the sent time 500",
        "SLOs held ttft:600 25.0 %, e2el:99000 50.0 %; all 25.0 % of the requests",
        "goodput 0.10 answers per second",
        "96 r_kv 1",
    ]:
        assert said in text, (said, text)
    closed = shown(a_result(plan(arrivals=ClosedLoop(2))))
    assert "sent time" not in closed, "the same as from the schedule"
    assert "goodput" not in closed


def test_a_client_at_its_limit_warns_everywhere(tmp_path: Path) -> None:
    busy = a_result(ticks=[Tick(at / 10, 0.5, at / 10) for at in range(210)])
    found = written(tmp_path / "run", busy)
    assert found["client_is_bottleneck"] is found["client_is_late"] is True
    assert len(found["warnings"]) == 3
    assert "WARNING: the client is the bottleneck: it was late by" in shown(busy)
    assert "WARNING: the client is the bottleneck" in (tmp_path / "run" / PAGE).read_text()
    assert "WARNING" not in shown(a_result())
    late = a_result(ticks=[Tick(at / 10, 0.5, at / 100) for at in range(210)])
    assert "WARNING: the client adds to what it measures: it was late by" in shown(late)


def test_other_notes() -> None:
    run = a_result(interrupted=True, cut_lengths=3)
    said = " ".join(words.notes(run, summarise(run)))
    assert "Interrupted" in said
    assert "3 lengths were cut" in said
    wanted = plan(prompt_tokens=parse_length("5:6"), prefix_tokens=2, prompts=(), ignore_eos=True)
    assert words.asked(wanted) == (
        "random prompts of 5:6 tokens, the first 2 the same; "
        "answers of 128 tokens that do not stop early"
    )
    real = plan(prompts=("a", "b"), ignore_eos=False)
    assert words.asked(real) == "2 real prompts in turn; answers of at most 128 tokens"
    assert words.offered(plan()) == "closed loop, 3 requests in flight"


# Progress


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool) -> None:
    now = 100.0
    console = Console(file=io.StringIO(), force_terminal=terminal, width=160)
    state = State(100.0)
    with LoadProgress(console, MIXED, lambda: now) as progress:
        for second in range(1, 13):
            now = 100.0 + second
            state.tokens += 50
            state.ended.update(["OK", "OK", "UNAVAILABLE"])
            state.behind = 7.5 if second > 8 else None
            progress.show(state)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    if terminal:
        assert "draining" in text
        assert "24 done" in text
    else:
        line = "10 s, draining: 20 done, 0 in flight, 50 tokens/s, 10 failed, 2.5 s behind"
        assert text == line + "\n"
