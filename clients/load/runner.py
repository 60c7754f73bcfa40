"""Sends the requests of a plan at their times and notes every moment."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from clients.async_client import AsyncClient
from clients.errors import BrokenStream, CallError
from clients.load.arrivals import ClosedLoop
from clients.load.offers import Offer, Offers
from clients.load.plan import Plan, Window
from clients.load.record import BROKEN, CUT, OK, Exchange, Row, rounded
from clients.load.watch import LoopWatch, ServerLoad, Tick, poll_server

FAILED_SECONDS = 0.1  # a closed loop pauses after a failure; it would be a storm on a dead server


@dataclass(frozen=True)
class Result:
    """What a run left. Times in seconds from its start."""

    plan: Plan
    window: tuple[float, float]
    rows: list[Row]  # in the order of their schedule
    ticks: list[Tick]
    server: list[ServerLoad]
    cut_lengths: int  # drawn longer than the model takes
    interrupted: bool


@dataclass
class State:
    """What a person may see while it runs."""

    origin: float  # on time.monotonic's clock
    running: int = 0
    behind: float | None = None  # when what waits for a slot was scheduled
    tokens: int = 0
    ended: Counter[str] = field(default_factory=Counter)  # requests by status


Show = Callable[[State], None]


async def run_load(client: AsyncClient, plan: Plan, offers: Offers, show: Show) -> Result:
    """Sends the offers of a plan; `show` is called once a second.

    The client must not retry. Requests that fail are rows. Cancelling this (Ctrl-C) cancels the
    requests in flight and returns what was measured until then.
    """
    run = _Run(client, plan, iter(offers))
    watch = LoopWatch(run.state.origin)
    server: list[ServerLoad] = []
    poll = poll_server(client, run.state.origin, server, lambda: show(run.state))
    helpers = [asyncio.create_task(watch.run()), asyncio.create_task(poll)]
    interrupted = False
    try:
        await run.all()
    except asyncio.CancelledError:
        interrupted = True
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    finally:
        watch.look()
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
    rows, window = run.rows()
    return Result(plan, window, rows, watch.ticks, server, offers.cut, interrupted)


class _Run:
    """The dispatcher: one coroutine waits for times and slots; one task per request in flight.

    A closed loop is an open one whose requests are each scheduled for when their slot is free.
    """

    def __init__(self, client: AsyncClient, plan: Plan, offers: Iterator[Offer]) -> None:
        self._client = client
        self._plan = plan
        self._offers = offers
        self._held: Offer | None = None  # made, and not sent yet
        self._window = plan.window
        self._counted = 0
        self._rows: list[Row] = []
        self._live: set[Exchange] = set()
        self._limit = asyncio.timeout(None)
        self._slots: asyncio.Queue[float] | None = None  # when each that is free became so
        if plan.in_flight_limit is not None:
            self._slots = asyncio.Queue()
            for _ in range(plan.in_flight_limit):
                self._slots.put_nowait(-math.inf)
        self.state = State(time.monotonic())
        self._stopped = math.inf  # when the run ended, whatever for

    async def all(self) -> None:
        """Sends every request and waits for the answers, but not past the limit of the plan."""
        try:
            async with self._limit, asyncio.TaskGroup() as group:
                self._set_limit()
                await self._dispatch(group)
        except TimeoutError:
            pass  # what was cut off says so
        finally:
            self._stopped = self._now()

    def rows(self) -> tuple[list[Row], tuple[float, float]]:
        """All rows, and the window, once the run is over."""
        for exchange in self._live:  # cancelled before their tasks began
            self._note(exchange, CUT, None)
        self._live.clear()
        self._note_unsent()
        rows = sorted(self._rows, key=lambda row: row.index)
        start, end = self._window.start, self._window.end
        if start is None:
            start = self._stopped
        if end is None:
            end = max((row.end for row in rows if row.counted), default=start)
        return rows, (rounded(start), rounded(max(start, min(end, self._stopped))))

    async def _dispatch(self, group: asyncio.TaskGroup) -> None:
        for offer in self._offers:
            self._held = offer
            if offer.at is not None:
                await asyncio.sleep(max(offer.at - self._now(), 0.0))
            free = await self._slot(offer)
            scheduled = max(free, 0.0) if offer.at is None else offer.at
            self._begin_window(offer, scheduled)
            if self._over(scheduled):
                self._held = None
                return
            exchange = Exchange(offer, scheduled, max(scheduled, free), self._counts(scheduled))
            self._held = None
            self._live.add(exchange)
            group.create_task(self._ask(exchange))

    async def _slot(self, offer: Offer) -> float:
        """When the slot became free that the next request takes."""
        if self._slots is None:
            return -math.inf
        self.state.behind = offer.at
        free = await self._slots.get()
        self.state.behind = None
        return free

    def _begin_window(self, offer: Offer, scheduled: float) -> None:
        """The first request that counts starts the window where the plan could not know."""
        if self._window.start is None and offer.index >= self._plan.warm_up_requests:
            length = self._plan.duration
            self._window = Window(scheduled, None if length is None else scheduled + length)
            self._set_limit()

    def _counts(self, scheduled: float) -> bool:
        start = self._window.start
        counted = start is not None and scheduled >= start
        self._counted += counted
        return counted

    def _over(self, scheduled: float) -> bool:
        end = self._window.end
        return self._counted == self._plan.requests or (end is not None and scheduled >= end)

    def _set_limit(self) -> None:
        end, drain = self._window.end, self._plan.drain_seconds
        if end is not None and drain is not None:
            left = end + drain - self._now()
            self._limit.reschedule(asyncio.get_running_loop().time() + left)

    async def _ask(self, exchange: Exchange) -> None:
        state, clock, origin = self.state, time.monotonic, self.state.origin
        state.running += 1
        status, error = CUT, None
        exchange.sent = clock() - origin
        try:
            async with aclosing(
                self._client.generate(exchange.offer.request, timeout=self._plan.request_seconds)
            ) as events:
                async for event in events:
                    state.tokens += exchange.add(event, clock() - origin)
            if not exchange.finished:
                raise BrokenStream("the stream ended with OK but the answer never finished")
            status = OK
        except CallError as failure:
            status, error = failure.code.name, str(failure)
        except BrokenStream as failure:
            status, error = BROKEN, str(failure)
        finally:
            state.running -= 1
            self._live.discard(exchange)
            self._note(exchange, status, error)
            self._free_slot(status)

    def _free_slot(self, status: str) -> None:
        if self._slots is None:
            return
        if isinstance(self._plan.arrivals, ClosedLoop) and status not in (OK, CUT):
            loop, slots = asyncio.get_running_loop(), self._slots
            loop.call_later(FAILED_SECONDS, lambda: slots.put_nowait(self._now()))
        else:
            self._slots.put_nowait(self._now())

    def _note(self, exchange: Exchange, status: str, error: str | None) -> None:
        self.state.ended[status] += 1
        self._rows.append(exchange.row(status, error, self._now()))

    def _note_unsent(self) -> None:
        """Those whose time had come when the run ended are cut as well, not forgotten."""
        offer = self._held or next(self._offers, None)
        while offer is not None and offer.at is not None and offer.at <= self._stopped:
            if self._over(offer.at):
                return
            exchange = Exchange(offer, offer.at, offer.at, self._counts(offer.at))
            self._rows.append(exchange.row(CUT, None, self._stopped))
            offer = next(self._offers, None)

    def _now(self) -> float:
        return time.monotonic() - self.state.origin
