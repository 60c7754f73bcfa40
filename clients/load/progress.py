"""What a person sees while a load test runs: a live line, or a plain one now and then."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from clients.load.plan import Plan
from clients.load.record import CUT, OK
from clients.load.runner import State

PLAIN_SECONDS = 10.0  # between two lines of a log


class LoadProgress:
    """Draws on `console`; use it as a context around the run, and hand its `show` to it."""

    def __init__(
        self, console: Console, plan: Plan, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._plan = plan
        self._clock = clock
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[now]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=plan.window.end, now="")
        self._last = (0.0, 0)  # time and tokens at the last show
        self._next_line = PLAIN_SECONDS

    def __enter__(self) -> "LoadProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, state: State) -> None:
        """Once a second."""
        at = self._clock() - state.origin
        seconds, tokens = at - self._last[0], state.tokens - self._last[1]
        self._last = (at, state.tokens)
        now = self._now(state, at, tokens / max(seconds, 1e-9))
        end = self._plan.window.end
        done = at if end is None else min(at, end)
        self._bar.update(
            self._task, description=f"{at:.0f} s, {self._phase(at)}", completed=done, now=now
        )
        if not self._console.is_terminal and at >= self._next_line:
            line = f"{at:.0f} s, {self._phase(at)}: {now}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
            self._next_line += PLAIN_SECONDS

    def _phase(self, at: float) -> str:
        window = self._plan.window
        if window.end is not None and at >= window.end:
            return "draining"
        return "warming up" if at < (window.start or 0.0) else "measuring"

    def _now(self, state: State, at: float, speed: float) -> str:
        failed = sum(state.ended.values()) - state.ended[OK] - state.ended[CUT]
        parts = [
            f"{state.ended[OK]:,} done",
            f"{state.running:,} in flight",
            f"{speed:,.0f} tokens/s",
            *([f"{failed:,} failed"] if failed else []),
            *([f"{at - state.behind:.1f} s behind"] if state.behind is not None else []),
        ]
        return ", ".join(parts)
