"""What a handler is given, and when it is told that nothing more comes."""

import pytest

from engine.messages import Delta, Finished, FinishReason, Usage
from service.errors import Aborted
from service.stream import RequestStream


def test_a_failure_goes_before_what_is_pending() -> None:
    """The handler may be in the middle of a write when it comes, and takes before it waits."""
    stream = RequestStream(1, "a", n=1, interval=1, arrival=0.0, deadline=1.0)
    stream.push(Delta(1, 0, [5, 6]), now=0.5)
    stream.finish(Finished(1, 0, FinishReason.CANCELLED, Usage()))
    stream.fail(Aborted())
    with pytest.raises(Aborted):
        stream.take()
