"""What a load test offers. Knows nothing of how."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from clients.errors import LoadError
from clients.load.arrivals import Arrivals, ClosedLoop, Rate, Trace
from clients.load.lengths import Length
from clients.load.mix import Share
from clients.load.slo import Slo

LEAST_BURSTINESS = 0.01  # under it, intervals are too small for a float
PROMPT_TOKENS, OUTPUT_TOKENS = Length("fixed", 256), Length("fixed", 128)


@dataclass(frozen=True)
class Window:
    """The part of a run that is measured, in seconds from its start; None: found as it runs."""

    start: float | None
    end: float | None


@dataclass(frozen=True)
class Plan:
    """One run. Times in seconds."""

    arrivals: Arrivals
    duration: float | None = None  # of the window
    requests: int | None = None  # scheduled within the window; the first limit reached ends it
    warm_up: float = 0.0
    warm_up_requests: int = 0
    max_concurrency: int | None = None  # more than these wait in the client
    drain_seconds: float | None = None  # for requests in flight at the end; None: until they end

    prompt_tokens: Length = PROMPT_TOKENS
    output_tokens: Length = OUTPUT_TOKENS
    prefix_tokens: int = 0  # at the start of every random prompt, the same in all
    prompts: tuple[str, ...] = ()  # real ones, in turn, instead of random token ids
    mix: tuple[Share, ...] = (Share(),)
    ignore_eos: bool = True
    temperature: float | None = 0.0
    stream_interval: int | None = None
    request_seconds: float | None = None  # deadline of one request
    seed: int = 0

    slos: tuple[Slo, ...] = ()
    percentiles: tuple[float, ...] = (90.0, 99.0)

    def check(self) -> None:
        """Raises LoadError where the plan contradicts itself or never ends."""
        for wrong, message in self._complaints():
            if wrong:
                raise LoadError(message)

    def _complaints(self) -> Iterator[tuple[bool, str]]:
        """What could be wrong; each may rely on those before it."""
        arrivals = self.arrivals
        rate, trace = isinstance(arrivals, Rate), isinstance(arrivals, Trace)
        endless = self.duration is None and self.requests is None
        yield endless and not trace, "a run needs an end: --duration SECONDS, --requests N, or both"
        spans = {"duration": self.duration, "drain": self.drain_seconds, "warm-up": self.warm_up}
        for name, value in spans.items():
            wrong = value is not None and not 0 <= value < math.inf
            yield wrong, f"got {name} {value} s; want a finite number, not under 0"
        empty = self.duration == 0 or (self.requests is not None and self.requests < 1)
        yield empty, "the window is empty; want a duration over 0 and at least 1 request"
        both = bool(self.warm_up and self.warm_up_requests)
        yield both, "give the warm-up as seconds or as requests, not as both"
        yield (
            isinstance(arrivals, Rate) and not _usable(arrivals),
            f"got {arrivals}; want a finite rate over 0 and a burstiness of at least "
            f"{LEAST_BURSTINESS}. For all at once use --concurrency N --requests N",
        )
        yield (
            isinstance(arrivals, ClosedLoop) and self.max_concurrency is not None,
            "--concurrency is its own limit; --max-concurrency is for --rate and --trace",
        )
        yield (
            rate and self.counted == 0,
            "no request would be scheduled within the window; raise --duration or --rate",
        )
        yield trace and self._all_warm_up(), "the whole trace is warm-up; shorten the warm-up"

    @property
    def counted(self) -> int:
        """Requests that a rate schedules within the window."""
        assert isinstance(self.arrivals, Rate)
        window = self.window
        assert window.start is not None
        assert window.end is not None
        return round((window.end - window.start) * self.arrivals.per_second)

    @property
    def window(self) -> Window:
        """As far as it is known before the run."""
        arrivals = self.arrivals
        start: float | None = self.warm_up
        length = self.duration
        if isinstance(arrivals, Rate):
            start = self.warm_up or self.warm_up_requests / arrivals.per_second
            if self.requests is not None:
                length = min(self.requests / arrivals.per_second, length or math.inf)
        elif isinstance(arrivals, Trace) and self.warm_up_requests < len(arrivals.calls):
            start = self.warm_up or arrivals.calls[self.warm_up_requests].timestamp
        elif self.warm_up_requests:
            start = None  # when the first counted request is scheduled
        return Window(start, None if start is None or length is None else start + length)

    @property
    def in_flight_limit(self) -> int | None:
        """Requests in flight, at most."""
        closed = isinstance(self.arrivals, ClosedLoop)
        return self.arrivals.concurrency if closed else self.max_concurrency  # type: ignore[union-attr]

    def _all_warm_up(self) -> bool:
        assert isinstance(self.arrivals, Trace)
        early = sum(call.timestamp < self.warm_up for call in self.arrivals.calls)
        return max(early, self.warm_up_requests) >= len(self.arrivals.calls)


def _usable(rate: Rate) -> bool:
    burstiness = 1.0 if rate.burstiness is None else rate.burstiness
    return 0 < rate.per_second < math.inf and LEAST_BURSTINESS <= burstiness < math.inf
