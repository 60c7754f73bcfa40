"""The numbers of made-up runs, against the definitions worked out token by token."""

import math
import random
import statistics

import pytest

from clients.load.arrivals import ClosedLoop, Rate
from clients.load.mix import parse_mix
from clients.load.numbers import (
    ClientLoad,
    Spread,
    client_load,
    gaps,
    labels,
    summarise,
)
from clients.load.record import CUT, Row
from clients.load.series import falls_behind, held_back, in_flight, tokens_per_second
from clients.load.slo import parse_slos
from clients.load.watch import Tick
from tests.clients.load.running import plan, result, row


def percentile(values: list[float], percent: float) -> float:
    """Linear interpolation between the two nearest ranks."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def scattered(count: int = 40) -> list[Row]:
    """Rows with uneven chunks, of a run whose window is from 10 s to 20 s."""
    draw = random.Random(5)
    rows = []
    for index in range(count):
        scheduled = draw.uniform(5, 20)
        sent = scheduled + draw.uniform(0, 0.5)
        at, times, tokens = sent, [], []
        for _ in range(draw.randint(1, 6)):
            at += draw.uniform(0.01, 1)
            times.append(at)
            tokens.append(draw.randint(1, 4))
        rows.append(
            row(
                index,
                counted=scheduled >= 10,
                scheduled=scheduled,
                due=scheduled,
                sent=sent,
                accepted=sent,
                first_token=times[0],
                end=at + 0.001,
                chunk_times=times,
                chunk_tokens=tokens,
                completion_tokens=sum(tokens),
                prompt_tokens=draw.randint(1, 9),
            )
        )
    return rows


def test_latencies_against_their_definitions() -> None:
    rows = scattered()
    found = summarise(result(rows, wanted=plan(percentiles=(50.0, 90.0, 99.0)))).latencies
    counted = [r for r in rows if r.counted]
    expected: dict[str, list[float]] = {name: [] for name in found}
    for r in counted:
        assert r.first_token is not None
        assert r.sent is not None
        expected["ttft"].append(r.first_token - r.scheduled)
        expected["e2el"].append(r.end - r.scheduled)
        expected["sent_ttft"].append(r.first_token - r.sent)
        expected["sent_e2el"].append(r.end - r.sent)
        expected["lag"].append(r.sent - r.due)
        if sum(r.chunk_tokens) > 1:
            expected["tpot"].append((r.end - r.first_token) / (sum(r.chunk_tokens) - 1))
        for before, after, tokens in zip(
            r.chunk_times, r.chunk_times[1:], r.chunk_tokens[1:], strict=False
        ):
            expected["itl"] += [(after - before) / tokens] * tokens
    assert len(expected["tpot"]) < len(counted), "some answers have one token"
    for name, values in expected.items():
        spread = found[name]
        assert spread is not None
        milliseconds = [1000 * value for value in values]
        assert spread.mean == pytest.approx(statistics.fmean(milliseconds))
        assert spread.median == pytest.approx(statistics.median(milliseconds))
        assert spread.std == pytest.approx(statistics.pstdev(milliseconds))
        assert list(spread.percentiles) == ["50", "90", "99"]
        for text, value in spread.percentiles.items():
            assert value == pytest.approx(percentile(milliseconds, float(text)))


def test_throughput_is_what_came_within_the_window_whoever_was_sent_it() -> None:
    rows = scattered()
    found = summarise(result(rows, (10.0, 20.0)))
    tokens = sum(
        count
        for r in rows
        for at, count in zip(r.chunk_times, r.chunk_tokens, strict=True)
        if 10 <= at <= 20
    )
    prompts = sum(r.prompt_tokens for r in rows if r.first_token and 10 <= r.first_token <= 20)
    assert 0 < tokens < sum(sum(r.chunk_tokens) for r in rows)
    assert (found.total_output_tokens, found.total_input_tokens) == (tokens, prompts)
    assert found.output_throughput == pytest.approx(tokens / 10)
    assert found.total_token_throughput == pytest.approx((tokens + prompts) / 10)
    ended = sum(10 <= r.end <= 20 for r in rows)
    assert found.request_throughput == pytest.approx(ended / 10)
    assert found.scheduled == found.completed == sum(r.counted for r in rows)
    assert found.warm_up_requests == len(rows) - found.scheduled > 0


def test_failures_and_cuts_are_counted_and_in_no_latency() -> None:
    slow = {"first_token": 15.0, "end": 19.0}
    rows = [
        row(0),
        row(1, status="RESOURCE_EXHAUSTED", error="RESOURCE_EXHAUSTED: full", **slow),
        row(2, status="RESOURCE_EXHAUSTED", **slow),
        row(3, status="DEADLINE_EXCEEDED", **slow),
        row(4, status=CUT, **slow),
        row(5, status="UNAVAILABLE", counted=False, **slow),
    ]
    found = summarise(result(rows))
    assert (found.scheduled, found.completed, found.failed, found.cut) == (5, 1, 3, 1)
    assert found.errors == {"RESOURCE_EXHAUSTED": 2, "DEADLINE_EXCEEDED": 1}
    ttft = found.latencies["ttft"]
    assert ttft is not None
    assert ttft.mean == pytest.approx(500)
    assert found.request_throughput == pytest.approx(0.1), "one answer in ten seconds"


def test_goodput() -> None:
    """Limits are for TTFT .5 s and E2E 1 s; window of 10 s."""
    rows = [
        row(0),  # .5 and .9
        row(1, first_token=10.6),  # first token late
        row(2, end=11.5),  # end late
        row(3, status="INTERNAL"),
        row(4, counted=False, scheduled=9.5, end=10.2, first_token=9.9),  # warm-up
        row(5, scheduled=19.8, first_token=20.0, end=20.1),  # good, ends in the drain
        row(6, scheduled=12, first_token=12.4, end=12.4, chunk_times=[12.4], chunk_tokens=[1],
            completion_tokens=1),
    ]  # fmt: skip
    wanted = plan(slos=parse_slos(["ttft:500", "e2e:1000", "tpot:101"]))
    found = summarise(result(rows, wanted=wanted))
    assert found.request_goodput == pytest.approx(3 / 10)
    assert found.slo_shares == {
        "ttft:500": pytest.approx(4 / 6),
        "e2el:1000": pytest.approx(4 / 6),
        "tpot:101": pytest.approx(4 / 6),
    }
    assert found.good_share == pytest.approx(3 / 6)
    assert found.request_throughput == pytest.approx(5 / 10)
    without = summarise(result(rows))
    assert (without.request_goodput, without.good_share) == (None, None)


def test_nothing_at_all() -> None:
    found = summarise(result([], (0.0, 0.0)))
    assert found.request_throughput is None
    assert found.output_throughput is None
    assert set(found.latencies.values()) == {None}
    assert found.client.complaints == []
    assert Spread.of([], (99.0,)) is None


def test_gaps_of_chunks() -> None:
    found = gaps(row(chunk_times=[1.0, 1.6, 2.0], chunk_tokens=[5, 3, 1]))
    assert found.tolist() == pytest.approx([0.2, 0.2, 0.2, 0.4])
    assert gaps(row(chunk_times=[1.0], chunk_tokens=[5])).tolist() == []
    assert gaps(row(chunk_times=[], chunk_tokens=[])).tolist() == []


def test_series_over_time() -> None:
    rows = [row(0), row(1, scheduled=10.2, sent=10.7, end=11.5), row(2, sent=None, end=12.0)]
    at, speed = tokens_per_second(rows[:2], 10.0, 10.75)
    assert at.tolist() == [10.0]
    assert speed.tolist() == pytest.approx([6 / 0.75])
    moments = [9.0, 10.3, 10.8, 11.0, 13.0]
    assert in_flight(rows, moments).tolist() == [0, 1, 2, 1, 0]  # type: ignore[arg-type]
    assert held_back(rows, moments).tolist() == [0, 2, 1, 1, 0]  # type: ignore[arg-type]


def test_classes_have_their_own_numbers() -> None:
    wanted = plan(mix=parse_mix(["budget=full", "budget=96,policy=r_kv"]))
    rows = [
        row(0, share="96 r_kv", kv_tokens_peak=96, kv_tokens_evicted=7),
        row(1, share="full", first_token=10.7, kv_tokens_peak=300, preemptions=2),
        row(2, share="full", status="UNAVAILABLE", chunk_times=[], chunk_tokens=[]),
        row(3, share="96 r_kv", kv_tokens_peak=90, kv_tokens_evicted=1),
        row(4, share="64", counted=False),
    ]
    run = result(rows, wanted=wanted)
    assert labels(run) == ["full", "96 r_kv", "64"]
    full, tight, other = summarise(run).shares
    assert (full.completed, full.failed, full.kv_tokens_peak, full.preemptions) == (1, 1, 300, 2)
    assert (tight.completed, tight.kv_tokens_peak, tight.kv_tokens_evicted) == (2, 96, 8)
    assert full.ttft is not None
    assert full.ttft.median == pytest.approx(700)
    assert full.output_throughput == pytest.approx(0.5)
    assert (other.completed, other.ttft) == (0, None)


# The client's own part


def spreads(lag: float, e2el: float) -> dict[str, Spread | None]:
    return {"lag": Spread.of([lag], (99,)), "e2el": Spread.of([e2el], (99,))}


def ticks(late: float, cores: float, busy: float | None = None) -> list[Tick]:
    def idle(at: int) -> float | None:
        return None if busy is None else (1 - busy) * at / 10

    return [Tick(at / 10, late, cores * at / 10, idle(at)) for at in range(301)]


def test_what_the_client_adds() -> None:
    found = client_load(ticks(0.006, 0.5), (10.0, 20.0), spreads(0.004, 2.0))
    assert found.lag_ms == pytest.approx(4)
    assert found.loop_delay_ms == pytest.approx(6)
    assert found.lag_share == pytest.approx(0.010 / 2.0)
    assert (found.cores, found.busy) == (pytest.approx(0.5), None)
    assert found.complaints == []


def test_only_the_window_counts() -> None:
    early = [Tick(at / 10, 5.0, float(at)) for at in range(100)]
    found = client_load(early + ticks(0.0, 0.5)[100:], (10.0, 20.0), spreads(0.0, 1.0))
    assert found.loop_delay_ms == 0
    assert found.cores == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("late", "lag", "cores", "busy", "words"),
    [
        (0.0, 0.021, 0.2, 0.2, ["late by 1.1 %"]),
        (0.021, 0.0, 0.2, 0.2, ["late by 1.1 %"]),
        (0.0, 0.019, 0.2, 0.2, []),
        (0.0, 0.0, 0.91, 0.2, ["used 0.91 of the one core"]),
        (0.0, 0.0, 0.91, None, ["it used 0.91 of the one core"]),
        (0.0, 0.0, 0.4, 0.91, ["busy 91 % of the time and used 0.40 of"]),
        (0.0, 0.0, 0.89, 0.89, []),
        (0.05, 0.05, 0.95, 1.0, ["late by 5.0 %", "busy 100 %"]),
    ],
)
def test_a_client_that_is_late_or_the_bottleneck_says_so(
    late: float, lag: float, cores: float, busy: float | None, words: list[str]
) -> None:
    found = client_load(ticks(late, cores, busy), (10.0, 20.0), spreads(lag, 2.0))
    assert len(found.complaints) == len(words)
    assert all(word in said for word, said in zip(words, found.complaints, strict=True))
    assert found.late == any("late" in word for word in words)
    assert found.bottleneck == any("late" not in word for word in words)


def test_a_run_without_answers_has_no_share_of_them() -> None:
    found = client_load([], (0.0, 0.0), {"lag": None, "e2el": None})
    assert found == ClientLoad(
        lag_ms=0.0, loop_delay_ms=0.0, loop_delay_p99_ms=0.0, lag_share=None, busy=None, cores=None
    )


def backlog(ends_after: list[float]) -> list[Row]:
    """Ten requests a second from 10 s to 20 s, with these times to the end."""
    return [
        row(index, scheduled=10 + index / 10, end=10 + index / 10 + after)
        for index, after in enumerate(ends_after)
    ]


def test_an_open_loop_that_the_server_cannot_follow() -> None:
    wanted = plan(arrivals=Rate(10.0))
    steady, growing = [1.0] * 100, [index / 20 for index in range(100)]
    assert not falls_behind(result(backlog(steady), wanted=wanted))
    assert falls_behind(result(backlog(growing), wanted=wanted))
    closed = plan(arrivals=ClosedLoop(50))
    assert not falls_behind(result(backlog(growing), wanted=closed))
