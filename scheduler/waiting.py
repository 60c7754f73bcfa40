"""The waiting queue: a line per tenant (priority, then order of arrival), served by fair shares.

Next is the line whose tenant was served least: tokens run for it, prompt and new ones, divided by
its weight (VTC: Sheng et al., Fairness in Serving Large Language Models, OSDI 2024). What runs
counts as a mean output more, or all places that are free at once would go to one tenant. A tenant
that comes back from idleness has saved nothing up. A line whose head would exceed its tenant's
limits is passed over; without limits and with one tenant this is one queue. Costs O(log n) in those
that wait and O(tenants) per admission.
"""

import heapq
from collections.abc import Iterable
from enum import StrEnum

from scheduler.config import SchedulerConfig
from scheduler.errors import InvalidRequest, QueueFull, QuotaExceeded
from scheduler.request import Request, Sequence
from scheduler.tenants import Tenant

RETRY_SECONDS = 1.0  # what a refused caller is told to wait, times the queue's fill
LONGEST_RETRY_SECONDS = 60.0


class WaitReason(StrEnum):
    """What outputs wait for."""

    KV_BLOCKS = "kv_blocks"  # the pool lacks blocks for the head of the queue
    MAX_RUNNING = "max_running"  # every row of the batch is taken
    MAX_BATCH_TOKENS = "max_batch_tokens"  # the step's tokens are spent
    TENANT_LIMIT = "tenant_limit"  # of all tenants that wait
    SHARED_PROMPT = "shared_prompt"  # another output of the request computes their prompt
    NEXT_STEP = "next_step"  # they came while a step was under way


class WaitingQueue:
    """Sequences that wait for admission, and what each tenant has."""

    def __init__(self, max_waiting: int = SchedulerConfig.max_waiting) -> None:
        self.reason = WaitReason.NEXT_STEP  # what holds the head up, and so all of them
        self._max_waiting = max_waiting
        self._lines: dict[str, _Line] = {}  # by tenant
        self._last_served = 0.0  # of the tenant that became idle last
        self._tokens = self._ended = (
            1  # tokens run, and outputs that ended, while tenants were several
        )

    def __len__(self) -> int:
        return sum(len(line.members) for line in self._lines.values())

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._line(sequence.request).members

    def enter(self, request: Request, waiting: int, running: int) -> None:
        """Books the outputs of a new request, of which `push` then queues those that may start.

        `waiting` and `running` are the outputs of all tenants.

        Raises:
            InvalidRequest, QueueFull: the queue has no room for them, ever or now.
            QuotaExceeded: the tenant has no room for them, ever or now.
        """
        if request.n > self._max_waiting:
            allowed = f"this server queues at most {self._max_waiting} outputs"
            raise InvalidRequest("sampling.n", f"got {request.n}; {allowed}")
        if waiting + request.n > self._max_waiting:
            raise QueueFull(waiting, _retry_seconds(waiting, running))
        line = self._line(request)
        line.tenant = request.tenant  # its limits may have changed
        line.check_quotas(request)
        if not line.live:
            active = [other.served for other in self._lines.values() if other.live]
            line.served = max(line.served, min(active, default=self._last_served))
        line.live += request.n

    def push(self, sequence: Sequence) -> None:
        self._line(sequence.request).push(sequence)

    def head(self) -> Sequence | None:
        """The next to be admitted; it stays in the queue."""
        mean = self._tokens / self._ended
        best: Sequence | None = None
        least = 0.0
        for line in self._lines.values():
            head = line.head()
            if head is None or not line.may_run(head):
                continue
            share = line.served + line.running * mean / line.tenant.weight
            if best is None or share < least or (share == least and head.rank < best.rank):
                best, least = head, share
        return best

    def held_up(self, *, rows: bool, room: bool) -> None:
        """Notes why admission ended: whether there were rows and tokens left of the step."""
        if not len(self):
            self.reason = WaitReason.NEXT_STEP
        elif not rows:
            self.reason = WaitReason.MAX_RUNNING
        elif not room:
            self.reason = WaitReason.MAX_BATCH_TOKENS
        else:
            limited = self.head() is None
            self.reason = WaitReason.TENANT_LIMIT if limited else WaitReason.KV_BLOCKS

    def remove(self, sequence: Sequence) -> None:
        self._line(sequence.request).remove(sequence)

    def admit(self, sequence: Sequence) -> None:
        """Takes out one that runs from now on."""
        line = self._line(sequence.request)
        line.remove(sequence)
        line.running += 1
        line.kv_tokens += sequence.request.most_tokens

    def leave(self, sequence: Sequence) -> None:
        """Books that one runs no more; it has ended, or `push` follows."""
        line = self._line(sequence.request)
        line.running -= 1
        line.kv_tokens -= sequence.request.most_tokens

    def end(self, sequence: Sequence) -> None:
        """Forgets one that has ended, wherever it waited."""
        line = self._line(sequence.request)
        line.remove(sequence)
        line.live -= 1
        self._ended += len(self._lines) > 1
        if not line.live:
            self._last_served = line.served

    def charge(self, run: Iterable[tuple[Sequence, int]]) -> None:
        """Books the tokens that a step runs of each sequence."""
        if len(self._lines) > 1:
            for sequence, tokens in run:
                line = self._lines[sequence.request.tenant.name]
                line.served += tokens / line.tenant.weight
                self._tokens += tokens

    def check(self, live: Iterable[Sequence]) -> None:
        """Asserts that every line's counts are those of its live sequences, within its limits."""
        counts = dict.fromkeys(self._lines, (0, 0, 0))
        for sequence in live:
            tenant, runs = sequence.request.tenant, sequence.row is not None
            outputs, running, tokens = counts[tenant.name]
            tokens += runs * sequence.request.most_tokens
            counts[tenant.name] = outputs + 1, running + runs, tokens
        for name, line in self._lines.items():
            assert (line.live, line.running, line.kv_tokens) == counts[name], name

    def _line(self, request: Request) -> "_Line":
        line = self._lines.get(request.tenant.name)
        if line is None:
            line = self._lines[request.tenant.name] = _Line(request.tenant)
        return line


class _Line:
    """One tenant's sequences that wait. Removal is lazy, so that all of it costs O(log n)."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.members: set[Sequence] = set()
        self.live = 0  # outputs that wait, here or for their prompt, or run
        self.running = 0
        self.kv_tokens = 0  # that the running ones may come to hold
        self.served = 0.0  # tokens run, over the weight
        self._heap: list[tuple[tuple[int, float, int, int], Sequence]] = []

    def push(self, sequence: Sequence) -> None:
        self.members.add(sequence)
        heapq.heappush(self._heap, (sequence.order, sequence))

    def head(self) -> Sequence | None:
        while self._heap and self._heap[0][1] not in self.members:
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def remove(self, sequence: Sequence) -> None:
        self.members.discard(sequence)
        if len(self._heap) > 2 * len(self.members) + 64:  # mostly removed: sweep them out
            self._heap = [entry for entry in self._heap if entry[1] in self.members]
            heapq.heapify(self._heap)

    def may_run(self, sequence: Sequence) -> bool:
        """Whether its tenant's limits allow it. One alone always may: a limit that was lowered
        while it waited must not keep it for ever."""
        tenant = self.tenant
        if not self.running:
            return True
        if tenant.max_running is not None and self.running >= tenant.max_running:
            return False
        tokens = self.kv_tokens + sequence.request.most_tokens
        return tenant.max_kv_tokens is None or tokens <= tenant.max_kv_tokens

    def check_quotas(self, request: Request) -> None:
        tenant, waiting = self.tenant, self.live - self.running
        if tenant.max_kv_tokens is not None and request.most_tokens > tenant.max_kv_tokens:
            raise QuotaExceeded(
                "max_kv_tokens",
                f"one output may come to hold {request.most_tokens} KV tokens, this tenant's "
                f"outputs together {tenant.max_kv_tokens}; ask for fewer tokens or a smaller KV "
                "budget",
            )
        if tenant.max_waiting is None or waiting + request.n <= tenant.max_waiting:
            return
        if request.n > tenant.max_waiting:
            raise QuotaExceeded(
                "max_waiting",
                f"got {request.n} outputs; this tenant queues at most {tenant.max_waiting}",
            )
        retry = _retry_seconds(waiting, self.running)
        raise QuotaExceeded(
            "max_waiting",
            f"{waiting} outputs of this tenant wait already, of at most {tenant.max_waiting}; "
            f"retry in {retry:.1f} s",
            retry,
        )


def _retry_seconds(waiting: int, running: int) -> float:
    load = waiting / max(running, 1)
    return min(RETRY_SECONDS * max(load, 1.0), LONGEST_RETRY_SECONDS)
