"""The requests of a run, made one after the other from the plan and its seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clients.errors import LoadError
from clients.load.arrivals import Call, Rate, Trace
from clients.load.mix import Share
from clients.load.plan import Plan
from clients.load.schedule import times
from clients.settings import Chat, Prompt, Request, Sampling, Stopping, TokenIds
from protos.sluice.v1 import sluice_pb2 as pb

ARRIVALS, LENGTHS, MIX, PROMPTS = range(4)  # streams of random numbers; one does not shift another


@dataclass(frozen=True)
class Offer:
    """One request to be."""

    index: int
    at: float | None  # scheduled, in seconds from the start; None: when a slot is free
    share: Share
    request: Request


class Offers:
    """Iterates over the requests of a run: endlessly for a closed loop, else to the schedule's end.

    The same plan and model give the same requests. `cut` counts lengths that were drawn longer than
    the model takes.
    """

    def __init__(self, plan: Plan, info: pb.ModelInfo) -> None:
        """Raises LoadError where the plan cannot be, or the model cannot take what it asks for."""
        plan.check()
        _check(plan, info)
        self._plan = plan
        self._info = info
        self._calls = plan.arrivals.calls if isinstance(plan.arrivals, Trace) else ()
        self._lengths, self._mix, self._prompts = (
            np.random.default_rng([plan.seed, stream]) for stream in (LENGTHS, MIX, PROMPTS)
        )
        every = np.arange(info.vocabulary_size, dtype=np.int64)
        self._ids = np.setdiff1d(every, np.array(info.eos_token_ids, dtype=np.int64))
        self._prefix = self._random_ids(plan.prefix_tokens)
        weights = np.array([share.weight for share in plan.mix])
        self._weights = weights / weights.sum()
        self.cut = 0

    def __iter__(self) -> Iterator[Offer]:
        for index, at in enumerate(self._times()):
            call = self._calls[index] if self._calls else Call(timestamp=0.0)
            drawn = self._plan.mix[int(self._mix.choice(len(self._weights), p=self._weights))]
            share = call.share or drawn
            yield Offer(index, at, share, self._request(index, call, share))

    def _times(self) -> Iterator[float | None]:
        plan = self._plan
        if isinstance(plan.arrivals, Rate):
            window = plan.window
            assert window.start is not None
            assert window.end is not None
            length = window.end - window.start
            yield from times(plan.arrivals, window.start, length, plan.seed).tolist()
        elif self._calls:
            yield from (call.timestamp for call in self._calls)
        else:
            while True:
                yield None

    def _request(self, index: int, call: Call, share: Share) -> Request:
        plan = self._plan
        prompt_tokens = call.input_length or plan.prompt_tokens.draw(self._lengths)
        output_tokens = call.output_length or plan.output_tokens.draw(self._lengths)
        if not plan.prompts:
            prompt_tokens = self._at_most(prompt_tokens, self._info.max_sequence_tokens - 1)
            output_tokens = self._at_most(
                output_tokens, self._info.max_sequence_tokens - prompt_tokens
            )
        return Request(
            self._prompt(index, prompt_tokens),
            kv_budget=share.kv_budget,
            sampling=Sampling(temperature=plan.temperature),
            stopping=Stopping(max_tokens=output_tokens, ignore_eos=plan.ignore_eos or None),
            stream_interval=plan.stream_interval,
        )

    def _prompt(self, index: int, tokens: int) -> Prompt:
        prompts = self._plan.prompts
        if prompts:
            text = prompts[index % len(prompts)]
            return Chat.user(text) if self._info.has_chat_template else text
        prefix = self._prefix[:tokens]
        return TokenIds(prefix + self._random_ids(tokens - len(prefix)))

    def _random_ids(self, count: int) -> tuple[int, ...]:
        return tuple(self._ids[self._prompts.integers(len(self._ids), size=count)].tolist())

    def _at_most(self, drawn: int, limit: int) -> int:
        self.cut += drawn > limit
        return min(drawn, limit)


def _check(plan: Plan, info: pb.ModelInfo) -> None:
    known = [policy.name for policy in info.policies]
    for share in plan.mix:
        if share.policy is not None and share.policy not in known:
            raise LoadError(
                f"{info.name} has no policy {share.policy!r}; it has {', '.join(known)}"
            )
    longest = (plan.prompt_tokens.most or 1) + (plan.output_tokens.most or 1)
    if not plan.prompts and longest > info.max_sequence_tokens:
        raise LoadError(
            f"prompts of {plan.prompt_tokens} and answers of {plan.output_tokens} tokens do not "
            f"fit {info.name}, which takes {info.max_sequence_tokens} in all; lower "
            "--prompt-tokens or --output-tokens"
        )
