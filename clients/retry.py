"""When a call may be repeated, and after how long.

Only what the server did not start is repeated: UNAVAILABLE, and RESOURCE_EXHAUSTED that carries
RetryInfo. Whether something was already shown to the caller is the SDK's business.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from clients.errors import CallError, Overloaded, Unavailable

LAST_GROWTH = 50  # attempts; the wait has met any cap, and a power of a thousand would overflow


@dataclass(frozen=True)
class RetryPolicy:
    """Capped exponential backoff with full jitter, on top of what the server asks for."""

    attempts: int = 5  # calls in all; 1 never repeats
    initial_seconds: float = 0.1
    multiplier: float = 3.0
    maximum_seconds: float = 5.0

    def delay(
        self, attempt: int, error: CallError, draw: Callable[[], float] = random.random
    ) -> float | None:
        """Seconds to wait after failed call number `attempt` (from 1), or None to give up.

        Never less than the server's RetryInfo; the jitter comes on top of it, so that clients
        refused together do not come back together.
        """
        if attempt >= self.attempts or not is_retryable(error):
            return None
        growth = self.multiplier ** min(attempt - 1, LAST_GROWTH)
        ceiling = self.initial_seconds * growth
        return (error.retry_after or 0.0) + min(ceiling, self.maximum_seconds) * draw()


NEVER = RetryPolicy(attempts=1)


def is_retryable(error: CallError) -> bool:
    """Whether the same call may succeed later."""
    if isinstance(error, Overloaded):
        return error.retry_after is not None
    return isinstance(error, Unavailable)
