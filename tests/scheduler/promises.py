"""A small model of what must come of requests, for the state machine."""

from dataclasses import dataclass, field

from scheduler.plan import Chunk, StepPlan
from scheduler.request import FinishReason, Request, Sequence
from tests.builders import Name, name_of


@dataclass
class Output:
    """What the model knows of one live output."""

    request: Request
    tokens: list[int] = field(default_factory=list)  # drawn
    computed: int = 0
    held: int = 0


class Model:
    """What must come of requests, told without blocks, queues or promises."""

    def __init__(self) -> None:
        self.live: dict[Name, Output] = {}
        self.tokens: dict[Name, list[int]] = {}
        self.reasons: dict[Name, FinishReason] = {}

    def submit(self, request: Request) -> None:
        for output in range(request.n):
            self.live[request.key, output] = Output(request, list(request.resumed))
            self.tokens[request.key, output] = self.live[request.key, output].tokens
        if len(request.resumed) == request.max_new_tokens:
            self.end(request.key, FinishReason.LENGTH)

    def end(self, key: int, reason: FinishReason, output: int | None = None) -> bool:
        ends = [name for name in self.live if name[0] == key and output in (None, name[1])]
        for name in ends:
            del self.live[name]
            self.reasons[name] = reason
        return bool(ends)

    def draw(self, name: Name, token: int | None) -> None:
        output = self.live.get(name)
        if output is None:
            return
        if token is None:
            self.end(name[0], FinishReason.ERROR)
            return
        output.tokens.append(token)
        if token in output.request.end_ids:
            self.end(name[0], FinishReason.STOP, name[1])
        elif len(output.tokens) == output.request.max_new_tokens:
            self.end(name[0], FinishReason.LENGTH, name[1])

    def expire(self, now: float) -> None:
        for request in [output.request for output in self.live.values()]:
            if request.deadline is not None and request.deadline <= now:
                self.end(request.key, FinishReason.DEADLINE)

    def book(self, plan: StepPlan, dropped: list[tuple[Sequence, int]]) -> None:
        for eviction in plan.evictions:
            output = self.live[name_of(eviction.sequence)]
            assert (eviction.position, eviction.tokens) == (output.computed, output.held)
            assert output.request.budget is not None
            assert output.request.budget.unit == 1
            self.evict(output, eviction.tokens - eviction.keep)
        for sequence, gone in dropped:
            self.evict(self.live[name_of(sequence)], gone)
        for chunk in plan.chunks:
            self.run(chunk)

    def evict(self, output: Output, gone: int) -> None:
        budget = output.request.budget
        assert budget is not None
        if not budget.elastic:
            assert (output.held, gone) == (budget.cap, budget.reclaim)
        elif output.held < budget.cap:
            pending = len(output.request.prompt) + len(output.tokens) - output.computed
            reads_past_its_promise = budget.evict_prompt or output.request.resumed
            assert pending == 1 or reads_past_its_promise, "pressed before it decodes"
        output.held -= gone
        assert output.held >= budget.floor - budget.reclaim >= budget.pinned + budget.recent

    def run(self, chunk: Chunk) -> None:
        output = self.live[name_of(chunk.sequence)]
        budget = output.request.budget
        if chunk.start != output.computed:  # admitted with cached blocks, or once more
            assert output.computed == 0 or budget is None, "a budgeted output was preempted"
            assert chunk.start == chunk.kv_start <= len(output.request.prompt)
            output.computed = output.held = chunk.start
        assert chunk.kv_start == output.held
        output.computed += chunk.count
        output.held += chunk.count
        assert budget is None or output.held <= budget.cap

    def work(self) -> int:
        """Steps that surely suffice, however often outputs push each other out."""
        each = [len(o.request.prompt) + o.request.max_new_tokens for o in self.live.values()]
        return (len(each) + 1) * sum(each) + 1
