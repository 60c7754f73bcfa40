"""A stream of events, gathered into what most callers want: the outputs."""

from dataclasses import dataclass, field

from clients.errors import BrokenStream
from protos.sluice.v1 import sluice_pb2 as pb

Event = pb.Accepted | pb.Tokens | pb.Progress | pb.Finished

FINISH_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


@dataclass(frozen=True)
class Timing:
    """Moments of one output, in seconds on the client's monotonic clock."""

    sent: float  # the request left for the first time (retries do not move it)
    accepted: float  # the server queued it
    first_token: float | None  # the first tokens arrived; None if there were none
    end: float  # the output ended


@dataclass(frozen=True)
class Output:
    """One of the n outputs."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str  # "stop" or "length"
    stop: str | None  # the stop string that ended it, if one did
    usage: pb.Usage
    timing: Timing
    logprobs: tuple[pb.TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Completion:
    """The whole answer to one request."""

    request_id: str
    accepted: pb.Accepted
    outputs: tuple[Output, ...]

    @property
    def output(self) -> Output:
        """The first output; the only one unless n was asked for."""
        return self.outputs[0]

    @property
    def text(self) -> str:
        """Text of the first output."""
        return self.output.text

    @property
    def usage(self) -> pb.Usage:
        """What the first output used."""
        return self.output.usage


@dataclass
class _Partial:
    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[pb.TokenLogprobs] = field(default_factory=list)
    first_token: float | None = None
    end: float | None = None
    finished: pb.Finished | None = None


class Gatherer:
    """Collects the events of one stream. Knows nothing of gRPC."""

    def __init__(self, num_outputs: int, sent: float) -> None:
        self._sent = sent
        self._accepted: tuple[pb.Accepted, float] | None = None
        self._partials = [_Partial() for _ in range(num_outputs)]

    def add(self, event: Event, at: float) -> None:
        """Takes the next event, which arrived at time `at`."""
        match event:
            case pb.Accepted():
                self._accepted = (event, at)
            case pb.Tokens():
                partial = self._partial(event.output_index)
                partial.text.append(event.text)
                partial.ids.extend(event.ids)
                partial.logprobs.extend(event.logprobs)
                if partial.first_token is None and event.ids:
                    partial.first_token = at
            case pb.Finished():
                partial = self._partial(event.output_index)
                partial.finished, partial.end = event, at

    def completion(self) -> Completion:
        """The gathered answer; call it when the stream ended with OK.

        Raises:
            BrokenStream: there was no Accepted, or not every output finished.
        """
        if self._accepted is None:
            raise BrokenStream("the stream ended with OK but without Accepted; is this Sluice?")
        accepted, accepted_at = self._accepted
        outputs = tuple(self._output(i, accepted_at) for i in range(len(self._partials)))
        return Completion(accepted.request_id, accepted, outputs)

    def _partial(self, index: int) -> _Partial:
        if index >= len(self._partials):
            raise BrokenStream(
                f"got output_index {index}, but only {len(self._partials)} outputs were asked for"
            )
        return self._partials[index]

    def _output(self, index: int, accepted: float) -> Output:
        partial = self._partials[index]
        finished, end = partial.finished, partial.end
        if finished is None or end is None:
            raise BrokenStream(f"the stream ended with OK but output {index} never finished")
        return Output(
            index=index,
            text="".join(partial.text),
            token_ids=tuple(partial.ids),
            finish_reason=FINISH_REASONS.get(finished.reason, "unspecified"),
            stop=finished.stop if finished.HasField("stop") else None,
            usage=finished.usage,
            timing=Timing(self._sent, accepted, partial.first_token, end),
            logprobs=tuple(partial.logprobs),
        )
