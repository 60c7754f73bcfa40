"""From a checked GenerateRequest to the engine's Submit."""

import secrets

from engine.messages import BudgetRequest, Sampling, Submit, Tenant
from protos.sluice.v1 import sluice_pb2

SEED_BITS = 63  # fits every client's signed integers


def make_submit(
    request: sluice_pb2.GenerateRequest,
    key: int,
    prompt: list[int],
    deadline: float,
    tenant: Tenant,
) -> Submit:
    """`deadline` is on time.monotonic's clock. A seed is chosen where the request has none."""
    stopping = request.stopping
    return Submit(
        key=key,
        prompt=prompt,
        sampling=_sampling(request.sampling),
        n=outputs_of(request),
        max_new_tokens=stopping.max_tokens if stopping.HasField("max_tokens") else None,
        stop_token_ids=list(stopping.stop_token_ids),
        ignore_eos=stopping.ignore_eos,
        budget=_budget(request.kv_budget),
        priority=request.priority,
        salt=request.cache_salt,
        deadline=deadline,
        resumed=list(request.resumed.ids),
        tenant=tenant,
    )


def outputs_of(request: sluice_pb2.GenerateRequest) -> int:
    """The number of outputs it asks for."""
    return request.sampling.n if request.sampling.HasField("n") else 1


def _sampling(asked: sluice_pb2.Sampling) -> Sampling:
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "logprobs")
    given = {name: getattr(asked, name) for name in names if asked.HasField(name)}
    seed = asked.seed if asked.HasField("seed") else secrets.randbits(SEED_BITS)
    return Sampling(seed=seed, **given)


def _budget(asked: sluice_pb2.KvBudget) -> BudgetRequest:
    names = ("max_tokens", "min_tokens", "policy", "recent_tokens", "sink_tokens", "reclaim_tokens")
    given = {name: getattr(asked, name) for name in names if asked.HasField(name)}
    return BudgetRequest(
        policy_settings=dict(asked.policy_settings), evict_prompt=asked.evict_prompt, **given
    )
