"""An answer that goes on after its stream broke: what to ask for, and what was already shown.

Knows nothing of gRPC.
"""

from clients.completion import Event
from clients.errors import BrokenStream
from protos.sluice.v1 import sluice_pb2 as pb

MAX_ID = 128  # characters of a request id
MOST_STREAMS = 10  # of one answer; one that ends its server again and again must not go on for ever


class Resumption:
    """Watches one request's events, over all of its streams."""

    def __init__(self, message: pb.GenerateRequest) -> None:
        self._message = message
        self._asked = 1  # calls
        self._streams = 0  # of these, that a server took up
        self._accepted: pb.Accepted | None = None
        self._ids: list[int] = []
        self._text = ""
        self._replayed: str | None = None  # text of `_ids` that a later stream has sent again

    @property
    def begun(self) -> bool:
        """Whether the caller has seen anything, so that the call may not just be repeated."""
        return self._accepted is not None

    @property
    def possible(self) -> bool:
        """Whether the answer can go on; several outputs cannot."""
        alone = self._message.sampling.n <= 1
        return not self.begun or (alone and self._streams < MOST_STREAMS)

    def request(self) -> pb.GenerateRequest:
        """What to send: the request itself, or after a break the one that goes on."""
        if self._accepted is None:
            return self._message
        self._asked += 1
        again = pb.GenerateRequest()
        again.CopyFrom(self._message)
        again.sampling.seed = self._accepted.seed
        again.stopping.max_tokens = self._accepted.max_tokens
        if again.HasField("request_id"):  # the broken one may live for a moment
            tail = f"~{self._asked}"
            again.request_id = self._message.request_id[: MAX_ID - len(tail)] + tail
        if self._ids:
            again.resumed.ids.extend(self._ids)
            self._replayed = ""
        return again

    def take(self, event: Event) -> Event | None:
        """The event as the caller should see it; None for what was shown before.

        Raises:
            BrokenStream: the server that goes on is not like the one before.
        """
        self._streams += isinstance(event, pb.Accepted)
        match event:
            case pb.Accepted() if self._accepted is None:
                self._accepted = event
            case pb.Accepted():
                self._check(event)
                return None
            case pb.Tokens() if self._replayed is not None and not event.ids:
                return self._replay(event)
            case pb.Tokens():
                self._ids.extend(event.ids)
                self._text += event.text
        return event

    def _check(self, again: pb.Accepted) -> None:
        """The same prompt and the same grant; else the tokens would not fit together."""
        names = ("prompt_tokens", "max_tokens", "kv_budget", "policy", "min_tokens")
        assert self._accepted is not None
        for name in names:
            before, now = getattr(self._accepted, name), getattr(again, name)
            if before != now:
                raise BrokenStream(
                    f"the stream broke, and the server that answers now has {name} {now} where "
                    f"{before} was granted; ask again from the beginning"
                )

    def _replay(self, event: pb.Tokens) -> pb.Tokens | None:
        """Of the text of the tokens sent along, what the caller has not seen."""
        self._replayed = None
        if not event.text.startswith(self._text):
            raise BrokenStream(
                "the stream broke, and the server that answers now reads its tokens as other "
                "text; ask again from the beginning"
            )
        new = event.text[len(self._text) :]
        self._text = event.text
        return pb.Tokens(output_index=event.output_index, text=new) if new else None
