"""What a caller may ask for. None always means: the server's default.

The meaning and range of every field is in `protos/sluice/v1/sluice.proto`; the server validates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from protos.sluice.v1 import sluice_pb2 as pb


@dataclass(frozen=True)
class KvBudget:
    """The most KV-cache tokens each output may hold, and who chooses what is evicted."""

    max_tokens: int | None = None  # 0 asks for no budget
    policy: str | None = None
    policy_settings: Mapping[str, float] = field(default_factory=dict)
    recent_tokens: int | None = None
    sink_tokens: int | None = None
    reclaim_tokens: int | None = None
    evict_prompt: bool | None = None
    min_tokens: int | None = None  # what pressure may take it down to; None: not elastic

    def to_proto(self) -> pb.KvBudget:
        return pb.KvBudget(**_given(self))


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float | None = None  # 0 is greedy
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    n: int | None = None
    logprobs: int | None = None

    def to_proto(self) -> pb.Sampling:
        return pb.Sampling(**_given(self))


@dataclass(frozen=True)
class Stopping:
    """When an output ends."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool | None = None

    def to_proto(self) -> pb.Stopping:
        return pb.Stopping(**_given(self))


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str  # "system", "user" or "assistant"
    content: str


@dataclass(frozen=True)
class Chat:
    """A conversation, rendered by the server through the model's chat template."""

    messages: tuple[Message, ...]

    @classmethod
    def user(cls, content: str) -> "Chat":
        """A conversation of one question."""
        return cls((Message("user", content),))


@dataclass(frozen=True)
class TokenIds:
    """A prompt that the caller tokenised."""

    ids: tuple[int, ...]


Prompt = str | Chat | TokenIds  # a str is plain text, tokenised as it stands


@dataclass(frozen=True)
class Request:
    """One prompt to decode."""

    prompt: Prompt
    kv_budget: KvBudget = KvBudget()
    sampling: Sampling = Sampling()
    stopping: Stopping = Stopping()
    model: str | None = None
    request_id: str | None = None
    priority: int | None = None
    stream_interval: int | None = None
    cache_salt: str | None = None

    @property
    def num_outputs(self) -> int:
        """Outputs the server will send."""
        return 1 if self.sampling.n is None else self.sampling.n

    def to_proto(self) -> pb.GenerateRequest:
        message = pb.GenerateRequest(
            sampling=self.sampling.to_proto(),
            stopping=self.stopping.to_proto(),
            kv_budget=self.kv_budget.to_proto(),
            **_given(self, "model", "request_id", "priority", "stream_interval", "cache_salt"),
        )
        match self.prompt:
            case str(text):
                message.text = text
            case Chat(messages):
                turns = [pb.ChatMessage(role=m.role, content=m.content) for m in messages]
                message.chat.CopyFrom(pb.Chat(messages=turns))
            case TokenIds(ids):
                message.token_ids.CopyFrom(pb.TokenIds(ids=ids))
        return message


class CallSettings(TypedDict, total=False):
    """The parts of a request that most calls set, as keywords."""

    kv_budget: KvBudget
    sampling: Sampling
    stopping: Stopping


def as_request(prompt: Prompt | Request, settings: CallSettings) -> Request:
    """`prompt` with `settings`, which replace those of a Request."""
    request = prompt if isinstance(prompt, Request) else Request(prompt)
    return replace(request, **settings)


def _given(settings: Any, *names: str) -> dict[str, Any]:
    """The fields that the caller set; empty collections count as not set."""
    chosen = names or tuple(f.name for f in fields(settings))
    values = {name: getattr(settings, name) for name in chosen}
    return {name: value for name, value in values.items() if value not in (None, (), {})}
