"""Requests of a load test that fail: they are rows, and never sent again."""

import threading

import grpc

from clients.load.numbers import summarise
from clients.load.record import OK
from protos.sluice.v1 import sluice_pb2 as pb
from tests.clients.fake_sluice import Failure, FakeSluice
from tests.clients.load.running import INFO, NUMBERED, fake, number, plan, run, texts

Code = grpc.StatusCode


# Failures


def test_failures_are_rows_and_never_sent_again() -> None:
    kinds = {0: Code.RESOURCE_EXHAUSTED, 1: Code.UNAVAILABLE, 2: Code.INVALID_ARGUMENT}

    def fail(request: pb.GenerateRequest) -> Failure | None:
        kind = kinds.get(number(request.text))
        return Failure(kind, "as it is", retry_after=0.01) if kind else None

    server = fake(fail=fail)
    found = run(server, plan(requests=6, prompts=NUMBERED))
    assert [row.status for row in found.rows] == [*(k.name for k in kinds.values()), OK, OK, OK]
    assert found.rows[0].error == "RESOURCE_EXHAUSTED: as it is"
    assert sorted(texts(server.requests)) == [f"p{index}" for index in range(6)]
    summary = summarise(found)
    assert (summary.completed, summary.failed) == (3, 3)
    assert summary.errors == {kind.name: 1 for kind in kinds.values()}


def test_a_closed_loop_does_not_storm_a_server_that_fails() -> None:
    found = run(fake(fail=lambda request: Failure(Code.UNAVAILABLE)), plan(requests=7))
    assert {row.status for row in found.rows} == {"UNAVAILABLE"}
    for earlier, later in zip(found.rows, found.rows[3:], strict=False):
        assert later.scheduled >= earlier.end + 0.09


def test_a_failure_half_way_keeps_its_tokens() -> None:
    broken = Failure(Code.UNAVAILABLE, after_events=2)
    found = run(fake(failures=[broken], answer=lambda prompt: "abcd"), plan(requests=2))
    row = next(row for row in found.rows if row.failed)
    assert (row.chunk_tokens, row.completion_tokens, row.finish_reason) == ([2], 2, None)
    assert row.accepted is not None


def test_a_deadline_is_a_failure() -> None:
    found = run(fake(hold=threading.Event()), plan(requests=2, request_seconds=0.1))
    assert {row.status for row in found.rows} == {"DEADLINE_EXCEEDED"}


def test_a_stream_that_ends_well_without_an_end_is_broken() -> None:
    class Forgetful(FakeSluice):
        def _events(self, request: pb.GenerateRequest):  # type: ignore[no-untyped-def]
            return (e for e in super()._events(request) if e.WhichOneof("event") != "finished")

    found = run(Forgetful(info=INFO), plan(requests=1))
    assert [row.status for row in found.rows] == ["BROKEN_STREAM"]
