"""What may be repeated, and how long a client waits."""

import grpc
import pytest

from clients.errors import BY_CODE, CallError, Overloaded, Unavailable
from clients.retry import NEVER, RetryPolicy, is_retryable

UNAVAILABLE = Unavailable(grpc.StatusCode.UNAVAILABLE, "gone")


def overloaded(retry_after: float | None) -> Overloaded:
    return Overloaded(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_after=retry_after)


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_only_what_the_server_did_not_start_is_repeated(code: grpc.StatusCode) -> None:
    kind = BY_CODE.get(code, CallError)
    assert is_retryable(kind(code, "")) == (code is grpc.StatusCode.UNAVAILABLE)


def test_a_full_queue_is_retried_only_where_the_server_says_when() -> None:
    assert is_retryable(overloaded(0.5))
    assert not is_retryable(overloaded(None))


def test_waits_grow_up_to_the_cap() -> None:
    policy = RetryPolicy(attempts=6, initial_seconds=1, multiplier=3, maximum_seconds=10)
    waits = [policy.delay(n, UNAVAILABLE, draw=lambda: 1.0) for n in range(1, 7)]
    assert waits == [1, 3, 9, 10, 10, None]


def test_one_who_tries_for_a_day_waits_the_cap() -> None:
    patient = RetryPolicy(attempts=100_000, maximum_seconds=5.0)
    assert patient.delay(99_999, UNAVAILABLE, lambda: 1.0) == 5.0


def test_jitter_scales_the_wait_down_to_nothing() -> None:
    policy = RetryPolicy(initial_seconds=1)
    assert policy.delay(1, UNAVAILABLE, draw=lambda: 0.25) == 0.25
    assert policy.delay(1, UNAVAILABLE, draw=lambda: 0.0) == 0.0


def test_never_sooner_than_the_server_asks() -> None:
    policy = RetryPolicy(initial_seconds=1)
    assert policy.delay(1, overloaded(7.0), draw=lambda: 0.0) == 7.0
    assert policy.delay(1, overloaded(7.0), draw=lambda: 1.0) == 8.0


def test_never_is_never() -> None:
    assert NEVER.delay(1, UNAVAILABLE) is None
