"""math-verify at arm's length: in processes that end when a comparison takes too long.

Its own time limit is an alarm in the main thread, which a loop in C ignores; a tower of powers
would hang the run. Not multiprocessing: that runs the caller's main module again in each worker.
"""

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

SECONDS = 10.0  # of processor time, for one comparison
WORKER = "clients.scoring.worker"


class NoVerdict(Exception):
    """The comparison broke down: its worker died or ran out of memory."""


class Judge:
    """Compares answers in worker processes, started when first needed; any thread may ask."""

    def __init__(self, workers: int | None = None, seconds: float = SECONDS) -> None:
        """At most `workers` (default: one per core) at once, `seconds` of their time for each."""
        self._seconds = seconds
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # None: yet to be started
        self._live: set[_Worker] = set()
        self.workers = workers or os.cpu_count() or 1
        for _ in range(self.workers):
            self._idle.put(None)

    def equal(self, answer: str, gold: str) -> bool:
        """Whether `answer` equals `gold`; LaTeX without `$`, not symmetric.

        Raises:
            TimeoutError: it took longer than allowed; that worker is gone.
            NoVerdict: it could not be compared.
        """
        with self._worker() as worker:
            verdict = worker.ask([answer, gold])
        if verdict is None:
            raise NoVerdict(f"comparing {answer!r} with {gold!r} takes more memory than allowed")
        return verdict

    def close(self) -> None:
        """Ends the workers, whatever they do; who waits for one gets NoVerdict."""
        for worker in list(self._live):
            worker.kill()
        for _ in range(self.workers):
            worker_or_none = self._idle.get()
            if worker_or_none is not None:
                self._discard(worker_or_none)
        for _ in range(self.workers):
            self._idle.put(None)

    @contextmanager
    def _worker(self) -> Iterator["_Worker"]:
        idle = self._idle.get()
        try:
            if idle is None:
                idle = _Worker(self._seconds)
                self._live.add(idle)
            yield idle
        except BaseException:
            if idle is not None:  # it died, or its next line would answer this question
                self._discard(idle)
            idle = None
            raise
        finally:
            self._idle.put(idle)

    def _discard(self, worker: "_Worker") -> None:
        self._live.discard(worker)
        worker.end()


class _Worker:
    """One process."""

    def __init__(self, seconds: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._read()  # it is ready

    def ask(self, question: list[str]) -> bool | None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # reading says how it ended
        return self._read()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()  # and closes the pipes

    def _read(self) -> bool | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            verdict: bool | None = json.loads(line)
            return verdict
        code = self._process.wait()
        if code == -signal.SIGPROF:
            raise TimeoutError
        raise NoVerdict(f"a scoring worker ended with exit code {code}")


@cache
def default_judge() -> Judge:
    """The judge of this process, made when first needed."""
    judge = Judge()
    atexit.register(judge.close)
    return judge
