"""One table from domain errors to statuses; every error is in it."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2

from service import errors
from service.errors import ServiceError, Violation, shown, to_status
from tests.service.harness import Harness, ids_request

TABLE = [
    (errors.InvalidRequest([Violation("a.b", "got 1; send 2")]), "INVALID_ARGUMENT"),
    (errors.UnknownModel("x", "fake"), "NOT_FOUND"),
    (errors.DuplicateRequest("x"), "ALREADY_EXISTS"),
    (errors.PolicyUnavailable("make its file"), "FAILED_PRECONDITION"),
    (errors.QueueFull("4 wait", 2.5), "RESOURCE_EXHAUSTED"),
    (errors.QuotaExceeded("max_waiting", "4 wait", None), "RESOURCE_EXHAUSTED"),
    (errors.ModelLoading(), "UNAVAILABLE"),
    (errors.EngineDown(), "UNAVAILABLE"),
    (errors.Draining(), "UNAVAILABLE"),
    (errors.DeadlinePassed(60), "DEADLINE_EXCEEDED"),
    (errors.Aborted(), "ABORTED"),
    (errors.ReaderStalled(30), "ABORTED"),
    (errors.BrokenOutput(), "INTERNAL"),
    (errors.Quarantined(600), "INTERNAL"),
]


@pytest.mark.parametrize(("error", "code"), TABLE, ids=lambda value: type(value).__name__)
def test_every_error_has_a_status_and_a_text(error: ServiceError, code: str) -> None:
    status = to_status(error)
    assert status.code == grpc.StatusCode[code].value[0]
    assert status.message == str(error) != ""
    line = f"{type(error).__name__}".ljust(18) + f" {code}"
    assert line in (errors.__doc__ or ""), "the drawing at the top of the file is the table"


def test_the_table_is_complete() -> None:
    assert {type(error) for error, _ in TABLE} == set(ServiceError.__subclasses__())


def test_details_name_the_field_and_the_time() -> None:
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    assert to_status(TABLE[0][0]).details[0].Unpack(bad)
    assert [(v.field, v.description) for v in bad.field_violations] == [("a.b", "got 1; send 2")]
    assert to_status(errors.QueueFull("", 2.5)).details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2500


def test_a_clients_text_is_shown_escaped_and_cut() -> None:
    assert shown("a\n\u202eb") == r"'a\n\u202eb'"
    assert len(shown("x" * 10_000)) < 100


def test_a_draining_server_takes_no_requests(fast: Harness) -> None:
    inference = fast.server._inference
    assert inference is not None
    inference.draining = True
    try:
        error = fast.run(fast.refusal(ids_request([1], 1)))
    finally:
        inference.draining = False
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in error.details()
    assert fast.run(asyncio.wait_for(fast.answer(ids_request([1], 1)), 10)).ids
