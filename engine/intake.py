"""From a message to a request: limits of the model, policy and budget in force."""

import time

from engine.messages import ModelInfo, PolicyInfo, Submit
from scheduler.budget import BudgetLimits, resolve
from scheduler.errors import InvalidRequest, PolicyUnavailable
from scheduler.request import Request


def build_request(submit: Submit, model: ModelInfo) -> Request:
    """The request that the scheduler gets.

    Raises:
        InvalidRequest: naming the field, what is allowed and what to do.
        PolicyUnavailable: the engine lacks what the policy needs.
    """
    longest = _longest(submit, model)
    policy = find_policy(submit.budget.policy or model.default_policy, model.policies)
    budget = resolve(
        submit.budget,
        BudgetLimits(model.default_kv_budget, model.max_kv_budget, model.default_policy),
        prompt_tokens=len(submit.prompt),
        max_new_tokens=longest,
        recent_share=policy.recent_share,
        unit=model.block_size if policy.whole_blocks else 1,
    )
    if budget is not None and policy.unavailable:
        raise PolicyUnavailable(policy.name, policy.unavailable)
    max_new = longest
    if budget is None and submit.max_new_tokens is None:
        max_new = max(min(longest, _most_held(submit, model) - len(submit.prompt)), 1)
    ends = set(submit.stop_token_ids) | (set() if submit.ignore_eos else set(model.eos_token_ids))
    return Request(
        key=submit.key,
        prompt=tuple(submit.prompt),
        max_new_tokens=max_new,
        n=submit.n,
        sampling=submit.sampling,
        end_ids=frozenset(ends),
        budget=budget,
        priority=submit.priority,
        salt=submit.salt,
        arrival=time.monotonic(),
        deadline=submit.deadline,
        resumed=tuple(submit.resumed),
        tenant=submit.tenant,
    )


def _longest(submit: Submit, model: ModelInfo) -> int:
    """Most new tokens that an output may have; InvalidRequest where the request has no room."""
    room = model.max_sequence_tokens - len(submit.prompt)
    if not submit.prompt or room < 1:
        raise InvalidRequest(
            "input",
            f"the prompt has {len(submit.prompt)} tokens; allowed are 1 to "
            f"{model.max_sequence_tokens - 1}, which leaves one token to draw",
        )
    if submit.max_new_tokens is not None and submit.max_new_tokens > room:
        raise InvalidRequest(
            "stopping.max_tokens",
            f"got {submit.max_new_tokens}; the prompt of {len(submit.prompt)} tokens leaves {room} "
            f"of the model's {model.max_sequence_tokens}",
        )
    longest = submit.max_new_tokens or room
    if len(submit.resumed) > longest:
        raise InvalidRequest(
            "resumed.ids",
            f"got {len(submit.resumed)} tokens of an answer that may have {longest}; send those "
            "that were received of this very request",
        )
    return longest


def _most_held(submit: Submit, model: ModelInfo) -> int:
    """KV tokens that one output may come to hold: the pool, or the tenant's part of it."""
    pool, limit = model.total_blocks * model.block_size, submit.tenant.max_kv_tokens
    return pool if limit is None else min(pool, limit)


def find_policy(name: str, policies: list[PolicyInfo]) -> PolicyInfo:
    """The policy called `name`.

    Raises:
        InvalidRequest: this engine has no such policy.
    """
    for policy in policies:
        if policy.name == name:
            return policy
    names = ", ".join(policy.name for policy in policies)
    raise InvalidRequest("kv_budget.policy", f"got {name!r}; this server has {names}")
