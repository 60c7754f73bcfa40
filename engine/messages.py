"""What crosses the pipe between the front process and the engine, msgspec-encoded.

Front to engine: Submit, Cancel, Stop, Shutdown. Engine to front: Ready once, then one Step per
engine step. A request is named by an integer key that the front makes and never reuses; messages
for a key that is no longer known are ignored on both sides. No torch, no grpc.
"""

from enum import StrEnum

import msgspec

from scheduler.budget import BudgetRequest as BudgetRequest
from scheduler.request import FinishReason as FinishReason
from scheduler.request import Sampling as Sampling
from scheduler.request import Usage as Usage
from scheduler.tenants import Tenant as Tenant
from scheduler.waiting import WaitReason as WaitReason


class Submit(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A new request, ranges of its scalars checked by the front."""

    key: int
    prompt: list[int]
    sampling: Sampling  # with the seed filled in
    n: int = 1
    max_new_tokens: int | None = None
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    budget: BudgetRequest = BudgetRequest()
    priority: int = 0
    salt: str = ""
    deadline: float | None = None  # time.monotonic(), which Linux shares between processes
    resumed: list[int] = []  # tokens of the answer that are there already; then n is 1
    tenant: Tenant = Tenant()


class Cancel(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """End the request; each live output is answered by Finished with reason CANCELLED."""

    key: int


class Stop(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """End one output with reason STOP: the front saw a stop string."""

    key: int
    output: int


class Shutdown(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Leave the loop."""


FrontMessage = Submit | Cancel | Stop | Shutdown


class PolicySetting(msgspec.Struct, array_like=True, frozen=True):
    """One setting of an eviction policy: name, range and default."""

    name: str
    description: str
    default: float
    minimum: float
    maximum: float
    integer: bool


class PolicyInfo(msgspec.Struct, array_like=True, frozen=True):
    """One eviction policy that requests may name."""

    name: str
    summary: str
    recent_share: float
    settings: list[PolicySetting]
    needs: str = ""  # beside the cache, for people
    unavailable: str = ""  # why requests that name it are refused, and what to do
    whole_blocks: bool = False  # entries go in blocks, so budgets round to these


class ModelInfo(msgspec.Struct, array_like=True, frozen=True):
    """What the engine serves; the contract's ModelInfo without what only the front knows."""

    name: str
    architecture: str
    max_sequence_tokens: int
    vocabulary_size: int
    block_size: int
    total_blocks: int
    kv_bytes_per_token: int
    dtype: str
    device: str
    kernels: str
    eos_token_ids: list[int]
    default_kv_budget: int
    max_kv_budget: int
    default_policy: str
    policies: list[PolicyInfo]
    max_running: int
    max_waiting: int


class Ready(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The model is loaded and warm."""

    model: ModelInfo


class Accepted(msgspec.Struct, array_like=True, frozen=True):
    """The request is in the queue; what was granted."""

    key: int
    prompt_tokens: int
    max_tokens: int
    kv_budget: int  # 0: none
    policy: str
    recent_tokens: int
    sink_tokens: int
    reclaim_tokens: int
    blocks_promised: int
    min_tokens: int = 0  # the floor; equal to kv_budget unless elastic


class Refusal(StrEnum):
    """Why a request was not accepted."""

    INVALID = "invalid"
    UNAVAILABLE_POLICY = "unavailable_policy"
    QUEUE_FULL = "queue_full"
    QUOTA = "quota"  # `field` names it


class Refused(msgspec.Struct, array_like=True, frozen=True):
    """The request is unknown to the engine from here on."""

    key: int
    reason: Refusal
    field: str  # path in the contract; empty when none is to blame
    message: str
    retry_seconds: float = 0.0  # 0: waiting does not help


class Delta(msgspec.Struct, array_like=True, frozen=True):
    """New tokens of one output; logprobs: per token (logprob, [(id, logprob), ...])."""

    key: int
    output: int
    ids: list[int]
    logprobs: list[tuple[float, list[tuple[int, float]]]] | None = None


class Finished(msgspec.Struct, array_like=True, frozen=True):
    """One output ended; nothing more of it is sent."""

    key: int
    output: int
    reason: FinishReason
    usage: Usage


class BudgetClass(msgspec.Struct, array_like=True, frozen=True):
    """The outputs whose KV budgets are of one size; see scheduler/classes.py."""

    bound: int
    running: int
    waiting: int
    blocks: int
    tokens: int


class Load(msgspec.Struct, array_like=True, frozen=True):
    """A snapshot; totals count from the start of this engine process."""

    running: int = 0
    waiting: int = 0
    blocks_used: int = 0
    blocks_free: int = 0
    blocks_cached: int = 0
    blocks_promised: int = 0
    tokens_resident: int = 0
    prompt_tokens_total: int = 0
    cached_prompt_tokens_total: int = 0
    generation_tokens_total: int = 0
    preemptions_total: int = 0
    tokens_evicted_total: dict[str, int] = {}
    eviction_rounds_total: dict[str, int] = {}
    ignored_events_total: int = 0  # for keys that were no longer known
    steps_failed_total: int = 0  # whose requests are lost
    tokens_pressed_total: int = 0  # evicted below a cap, because blocks lacked
    tokens_elastic: int = 0  # held above floors
    blocks_shared: int = 0  # places in block tables beyond the first of their block
    budget_classes: list[BudgetClass] = []  # those that have outputs
    waiting_by_reason: dict[WaitReason, int] = {}  # those that have outputs


class Step(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Everything that happened in one engine step."""

    accepted: list[Accepted]
    refused: list[Refused]
    deltas: list[Delta]
    finished: list[Finished]
    load: Load
    tokens: int = 0  # in the forward pass
    seconds: float = 0.0  # the whole step, evictions included
    eviction_seconds: float = 0.0
    sequences: int = 0  # in the forward pass
    prefill_tokens: int = 0  # of `tokens`, those of chunks longer than a decode


EngineMessage = Ready | Step

encode = msgspec.msgpack.Encoder().encode
decode_front = msgspec.msgpack.Decoder(FrontMessage).decode
decode_engine = msgspec.msgpack.Decoder(EngineMessage).decode
