"""Runs against a scripted server: times, slots, warm-up, ends, failures."""

import asyncio
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import grpc
import msgspec
import pytest

from clients.async_client import AsyncClient
from clients.load.arrivals import Call, ClosedLoop, Rate, Trace
from clients.load.lengths import Length
from clients.load.mix import parse_mix
from clients.load.numbers import summarise
from clients.load.offers import Offers
from clients.load.record import CUT, OK, Row, write
from clients.load.runner import State, run_load
from clients.retry import NEVER
from protos.sluice.v1 import sluice_pb2 as pb
from tests.clients.fake_sluice import FakeSluice, serving
from tests.clients.load.running import GIVEN_UP, INFO, NUMBERED, fake, number, plan, run

Code = grpc.StatusCode


def test_a_row_has_every_moment_in_order() -> None:
    server = fake(answer=lambda prompt: "answer")
    wanted = plan(prompt_tokens=Length("fixed", 9), mix=parse_mix(["budget=12,policy=window"]))
    found = run(server, wanted)
    assert len(found.rows) == 6
    for row in found.rows:
        assert (row.status, row.error, row.finish_reason) == (OK, None, "stop")
        assert row.sent is not None
        assert row.accepted is not None
        moments = [row.scheduled, row.due, row.sent, row.accepted, *row.chunk_times, row.end]
        assert moments == sorted(moments)
        assert row.first_token == row.chunk_times[0]
        assert row.chunk_tokens == [3, 3]
        assert (row.prompt_tokens, row.completion_tokens, row.asked_tokens) == (9, 6, 128)
        assert (row.share, row.budget, row.policy) == ("12 window", 12, "window")
        assert (row.kv_tokens_peak, row.kv_tokens_evicted, row.eviction_rounds) == (12, 3, 1)
    assert [row.index for row in found.rows] == list(range(6))
    assert not found.interrupted


def test_what_is_asked() -> None:
    server = fake()
    wanted = plan(
        requests=1,
        stream_interval=4,
        prompt_tokens=Length("fixed", 3),
        mix=parse_mix(["budget=full"]),
    )
    run(server, wanted)
    [request] = server.requests
    assert len(request.token_ids.ids) == 3
    assert request.kv_budget == pb.KvBudget(max_tokens=0)
    assert request.stopping == pb.Stopping(max_tokens=128, ignore_eos=True)
    assert (request.stream_interval, request.sampling.temperature) == (4, 0)


def test_a_closed_loop_keeps_its_slots_busy() -> None:
    def slow(prompt: str) -> str:
        time.sleep(0.02)
        return "x"

    server = fake(answer=slow)
    found = run(server, plan(arrivals=ClosedLoop(3), requests=12))
    assert server.most_running == 3
    ends = sorted(row.end for row in found.rows)
    scheduled = [row.scheduled for row in found.rows]
    assert scheduled[:3] == [0, 0, 0]
    # each later one is scheduled when a slot is free, a moment after the answer ended
    assert all(at >= end for at, end in zip(scheduled[3:], ends, strict=False))
    assert found.window == (0.0, ends[-1])


def test_open_loop_requests_are_sent_at_their_times_whatever_the_server_does() -> None:
    gate = threading.Event()

    def show(state: State) -> None:
        if state.running == 5:
            gate.set()

    server = fake(hold=gate)
    found = run(server, plan(arrivals=Rate(100.0, None), requests=5), show)
    assert server.most_running == 5
    assert [row.scheduled for row in found.rows] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
    assert all(row.due == row.scheduled <= (row.sent or 0) for row in found.rows)
    assert found.window == pytest.approx((0.0, 0.05))


def test_a_cap_makes_requests_wait_and_latencies_from_the_schedule_show_it() -> None:
    def slow(prompt: str) -> str:
        time.sleep(0.1)
        return "xy"

    server = fake(answer=slow)
    found = run(server, plan(arrivals=Rate(100.0, None), requests=4, max_concurrency=1))
    assert server.most_running == 1
    for before, after in pairwise(found.rows):
        assert after.due >= before.end
        assert (after.sent or 0) >= after.due
    last = found.rows[-1]
    assert (last.latencies["e2el"] or 0) >= 4 * 0.1 - 0.03
    assert last.end - (last.sent or 0) < (last.latencies["e2el"] or 0)


def test_a_trace_is_followed() -> None:
    calls = (
        Call(timestamp=0.0, input_length=4, budget=20, policy="window"),
        Call(timestamp=0.03, input_length=5),
        Call(timestamp=0.03, output_length=7),
    )
    server = fake()
    found = run(server, plan(arrivals=Trace(calls), requests=None, warm_up=0.01))
    assert [row.scheduled for row in found.rows] == [0.0, 0.03, 0.03]
    assert [row.counted for row in found.rows] == [False, True, True]
    assert [row.prompt_tokens for row in found.rows] == [4, 5, 256]
    assert [row.budget for row in found.rows] == [20, 0, 0]
    assert found.window == (0.01, max(row.end for row in found.rows))


# Warm-up


def test_the_warm_up_hands_over_without_draining() -> None:
    """One warm-up request ends only after the server has seen a counted one."""
    handed_over = threading.Event()

    def answer(prompt: str) -> str:
        if number(prompt) == 4:
            assert handed_over.wait(GIVEN_UP)
        elif number(prompt) >= 5:
            handed_over.set()
        return "x"

    wanted = plan(requests=8, warm_up_requests=5, prompts=NUMBERED)
    found = run(fake(answer=answer), wanted)
    assert [row.counted for row in found.rows] == [False] * 5 + [True] * 8
    start, end = found.window
    assert start == found.rows[5].scheduled
    assert found.rows[4].end > start
    assert end == max(row.end for row in found.rows[5:])
    assert all(row.ok for row in found.rows)
    assert summarise(found).scheduled == 8


def test_the_warm_up_obeys_the_cap() -> None:
    server = fake(answer=lambda prompt: time.sleep(0.01) or "x")
    run(server, plan(arrivals=Rate(500.0), requests=5, warm_up_requests=10, max_concurrency=2))
    assert server.most_running == 2


def test_the_warm_up_of_a_closed_loop_ends_by_the_clock() -> None:
    server = fake(answer=lambda prompt: time.sleep(0.02) or "x")
    found = run(server, plan(requests=None, duration=0.2, warm_up=0.1))
    assert found.window == pytest.approx((0.1, 0.3))
    assert all(row.counted == (row.scheduled >= 0.1) for row in found.rows)
    assert all(row.scheduled < 0.3 for row in found.rows)


# Ends


def test_the_drain_waits_and_counts() -> None:
    gate = threading.Event()

    def show(state: State) -> None:
        if time.monotonic() - state.origin > 0.1:
            gate.set()

    wanted = plan(arrivals=Rate(100.0), requests=None, duration=0.05)
    found = run(fake(hold=gate), wanted, show)
    assert {row.status for row in found.rows} == {OK}
    assert min(row.end for row in found.rows) > 0.05
    assert found.window == pytest.approx((0.0, 0.05))
    assert summarise(found).total_output_tokens == 0, "they came after the window"


def test_without_a_drain_what_is_in_flight_is_cut() -> None:
    server = fake(hold=threading.Event())
    wanted = plan(arrivals=Rate(100.0), requests=None, duration=0.2, drain_seconds=0.0)
    found = run(server, wanted)
    assert Counter(row.status for row in found.rows) == {CUT: 20}
    assert found.window == pytest.approx((0.0, 0.2))
    assert server.hung_up.wait(GIVEN_UP)
    assert (summarise(found).cut, summarise(found).failed) == (20, 0)


def test_what_could_not_even_be_sent_is_cut_too() -> None:
    wanted = plan(
        arrivals=Rate(100.0, None),
        requests=None,
        duration=0.2,
        drain_seconds=0.1,
        max_concurrency=3,
    )
    found = run(fake(hold=threading.Event()), wanted)
    assert len(found.rows) == 20
    assert sum(row.sent is None for row in found.rows) >= 17
    assert {row.status for row in found.rows} == {CUT}


def test_an_interruption_leaves_what_was_measured() -> None:
    server = FakeSluice(info=INFO)

    def answer(prompt: str) -> str:
        if number(prompt) >= 4:
            hold.wait(GIVEN_UP)
        return "x"

    hold = threading.Event()
    server.answer = answer

    async def scenario(target: str) -> tuple[list[Row], bool]:
        async with AsyncClient(target, retry=NEVER) as client:
            main = asyncio.current_task()
            assert main is not None

            def show(state: State) -> None:
                if state.ended[OK] >= 4:
                    main.cancel()

            wanted = plan(arrivals=ClosedLoop(2), requests=50, prompts=NUMBERED)
            found = await run_load(client, wanted, Offers(wanted, INFO), show)
            hold.set()
            assert not main.cancelling()
            return found.rows, found.interrupted

    with serving(server) as target:
        rows, interrupted = asyncio.run(scenario(target))
    assert interrupted
    assert Counter(row.status for row in rows) == {OK: 4, CUT: 2}


# Watching


def test_the_server_is_polled_and_a_person_sees_progress() -> None:
    seen: list[tuple[int, int]] = []
    found = run(fake(), plan(), lambda state: seen.append((state.running, state.tokens)))
    assert seen
    assert found.server
    assert found.server[0].at >= 0


def test_a_blocked_client_is_told_as_the_bottleneck() -> None:
    """The loop stands still for .4 s of a run of .5 s."""
    blocked: list[float] = []

    def show(state: State) -> None:
        if not blocked:
            blocked.append(1)
            time.sleep(0.4)

    found = run(fake(), plan(arrivals=Rate(40.0, None), requests=None, duration=0.5), show)
    client = summarise(found).client
    assert client.loop_delay_ms > 50
    assert client.lag_share is not None
    assert client.lag_share > 0.01
    assert client.complaints


def test_rows_are_lines_of_json(tmp_path: Path) -> None:
    found = run(fake(), plan())
    write(tmp_path / "rows.jsonl", found.rows)
    lines = (tmp_path / "rows.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Row) for line in lines] == found.rows
