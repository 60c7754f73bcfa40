"""One output's tokens on their way into messages: text, stop strings, what was thinking.

Knows nothing of streams, gRPC calls or the engine's pipe.
"""

from engine.messages import Finished, FinishReason, Usage
from protos.sluice.v1 import sluice_pb2
from service.stops import StopMatcher
from service.stream import Logprobs, Part
from service.text_api import Detokenizer, Text
from service.thinking import ThinkingCounter, ended_in

REASONS = {
    FinishReason.STOP: sluice_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: sluice_pb2.FINISH_REASON_LENGTH,
}


class Output:
    """Turns an output's parts into events; a stop string ends it whatever else arrives."""

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer,
        matcher: StopMatcher | None,
        thinking: ThinkingCounter,
    ) -> None:
        self._index = index
        self._detokenizer = detokenizer
        self._matcher = matcher
        self._thinking = thinking
        self._delivered = 0  # tokens, those of a broken stream among them
        self.stop: str | None = None  # the stop string that ended it

    def events(self, part: Part) -> list[sluice_pb2.GenerateEvent]:
        """At most one Tokens, then one Finished if this is the end."""
        events = []
        if self.stop is None:
            count, text = self._text(part.ids)
            if part.finished is not None and self.stop is None:
                text += self._rest()
            if count or text:
                events.append(self._tokens(part.ids[:count], text, part.logprobs[:count]))
        if part.finished is not None:
            events.append(self._finished(part.finished))
        return events

    def resume(self, ids: list[int]) -> sluice_pb2.GenerateEvent:
        """Takes the tokens that a broken stream delivered; what of their text is certain."""
        return self._tokens([], self._text(ids)[1], [])

    def _text(self, ids: list[int]) -> tuple[int, str]:
        """How many of the ids count, and the text that became certain with them."""
        if self._matcher is None and not self._thinking.needs_text:
            self._thinking.add(ids)
            self._delivered += len(ids)
            return len(ids), self._detokenizer.feed(ids)
        pieces = []
        for count, token in enumerate(ids, start=1):
            piece = self._detokenizer.feed((token,))
            self._thinking.add((token,), piece)
            self._delivered += 1
            pieces.append(self._certain(piece))
            if self.stop is not None:
                return count, "".join(pieces)
        return len(ids), "".join(pieces)

    def _certain(self, piece: str) -> str:
        if self._matcher is None:
            return piece
        match = self._matcher.feed(piece)
        self.stop = match.stop
        return match.text

    def _rest(self) -> str:
        """What was held back: half a character, the beginning of a stop string."""
        rest = self._certain(self._detokenizer.flush())
        if self._matcher is None or self.stop is not None:
            return rest
        return rest + self._matcher.flush()

    def _tokens(self, ids: list[int], text: str, logprobs: Logprobs) -> sluice_pb2.GenerateEvent:
        # Filled in place: building Tokens first and copying it in would take twice as long.
        event = sluice_pb2.GenerateEvent()
        tokens = event.tokens
        tokens.output_index = self._index
        tokens.ids.extend(ids)
        tokens.text = text
        for logprob, top in logprobs:
            entry = tokens.logprobs.add(logprob=logprob)
            for token, value in top:
                entry.top.add(id=token, logprob=value)
        return event

    def _finished(self, finished: Finished) -> sluice_pb2.GenerateEvent:
        reason = sluice_pb2.FINISH_REASON_STOP if self.stop else REASONS[finished.reason]
        return sluice_pb2.GenerateEvent(
            finished=sluice_pb2.Finished(
                output_index=self._index,
                reason=reason,
                stop=self.stop,
                usage=self._usage(finished.usage),
            )
        )

    def _usage(self, usage: Usage) -> sluice_pb2.Usage:
        """The engine's account, with the tokens that this output delivered."""
        return sluice_pb2.Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=self._delivered,
            resumed_tokens=usage.resumed_tokens,
            reasoning_tokens=self._thinking.tokens,
            cached_prompt_tokens=usage.cached_prompt_tokens,
            kv_tokens_peak=usage.kv_tokens_peak,
            kv_tokens_final=usage.kv_tokens_final,
            kv_tokens_evicted=usage.kv_tokens_evicted,
            kv_tokens_pressed=usage.kv_tokens_pressed,
            eviction_rounds=usage.eviction_rounds,
            kv_blocks_peak=usage.kv_blocks_peak,
            preemptions=usage.preemptions,
            queue_seconds=usage.queue_seconds,
            prefill_seconds=usage.prefill_seconds,
            decode_seconds=usage.decode_seconds,
        )


def make_outputs(n: int, prompt: list[int], stops: tuple[str, ...], text: Text) -> list[Output]:
    """The outputs of one request."""
    over = ended_in(prompt, text)
    return [
        Output(
            index,
            text.detokenizer(prompt),
            StopMatcher(stops) if stops else None,
            ThinkingCounter(text, over=over),
        )
        for index in range(n)
    ]
