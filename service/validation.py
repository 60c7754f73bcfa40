"""Checks a GenerateRequest against the contract's ranges, the model and its policies.

What needs the engine's state (whether a budget can hold what it pins, whether the queue has room)
the engine refuses itself. Knows nothing of gRPC calls.
"""

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

from engine.messages import ModelInfo, PolicyInfo, PolicySetting
from protos.sluice.v1 import sluice_pb2
from service import ranges
from service.errors import MAX_VIOLATIONS, InvalidRequest, UnknownModel, Violation, shown


def check_model(request: Any, model: ModelInfo) -> None:
    """For any request with an optional `model`.

    Raises:
        UnknownModel: it names another one.
    """
    if request.HasField("model") and request.model != model.name:
        raise UnknownModel(request.model, model.name)


def check_request(
    request: sluice_pb2.GenerateRequest, model: ModelInfo, max_characters: int
) -> None:
    """Everything that can be said before the prompt is tokenised.

    Raises:
        UnknownModel: the request names another model.
        InvalidRequest: naming every field that is out of range, up to a limit.
    """
    check_model(request, model)
    violations = [
        *_names(request),
        *_rules("", request, ranges.REQUEST),
        *_input(request, model, max_characters),
        *_resumed(request, model),
        *_rules("sampling.", request.sampling, ranges.SAMPLING),
        *_stopping(request.stopping, model),
        *_kv_budget(request.kv_budget, model),
    ]
    if violations:
        raise InvalidRequest(violations)


def check_prompt(field: str, prompt: list[int], model: ModelInfo) -> None:
    """The length of a tokenised prompt; `field` is where it came from.

    Raises:
        InvalidRequest: it is empty or leaves no room for a new token.
    """
    violations = list(_length(field, len(prompt), model))
    if violations:
        raise InvalidRequest(violations)


def _names(request: sluice_pb2.GenerateRequest) -> Iterable[Violation]:
    longest = ranges.MAX_REQUEST_ID_CHARACTERS
    if request.HasField("request_id") and not 1 <= len(request.request_id) <= longest:
        yield Violation(
            "request_id",
            f"got {len(request.request_id)} characters; send 1 to {longest}, or leave it out for "
            "one made by the server",
        )
    longest = ranges.MAX_CACHE_SALT_CHARACTERS
    if len(request.cache_salt) > longest:
        yield Violation(
            "cache_salt", f"got {len(request.cache_salt)} characters; send at most {longest}"
        )


def _rules(prefix: str, message: Any, rules: Iterable[ranges.Rule]) -> Iterable[Violation]:
    for rule in rules:
        if message.HasField(rule.field):
            complaint = rule.complaint(getattr(message, rule.field))
            if complaint is not None:
                yield Violation(prefix + rule.field, complaint)


def _input(
    request: sluice_pb2.GenerateRequest, model: ModelInfo, max_characters: int
) -> Iterable[Violation]:
    match request.WhichOneof("input"):
        case "text":
            yield from _characters("text", len(request.text), max_characters)
        case "chat":
            yield from _chat(request.chat, max_characters)
        case "token_ids":
            yield from _token_ids(request.token_ids, model)
        case _:
            yield Violation("input", "got none; set exactly one of text, chat and token_ids")


def _characters(field: str, count: int, most: int) -> Iterable[Violation]:
    if not 1 <= count <= most:
        yield Violation(field, f"got {count} characters; send 1 to {most}")


def _chat(chat: sluice_pb2.Chat, max_characters: int) -> Iterable[Violation]:
    if not chat.messages:
        yield Violation("chat.messages", "got none; send at least one")
        return
    if too_many := list(_count("chat.messages", len(chat.messages), ranges.MAX_MESSAGES)):
        yield from too_many
        return
    for i, message in enumerate(chat.messages):
        if message.role not in ranges.ROLES:
            yield Violation(
                f"chat.messages[{i}].role",
                f"got {shown(message.role)}; send {', '.join(ranges.ROLES)}",
            )
    total = sum(len(message.content) for message in chat.messages)
    yield from _characters("chat.messages", total, max_characters)


def _token_ids(token_ids: sluice_pb2.TokenIds, model: ModelInfo) -> Iterable[Violation]:
    too_long = list(_length("token_ids.ids", len(token_ids.ids), model))
    yield from too_long or _vocabulary("token_ids.ids", token_ids.ids, model)


def _resumed(request: sluice_pb2.GenerateRequest, model: ModelInfo) -> Iterable[Violation]:
    if not request.HasField("resumed"):
        return
    ids = request.resumed.ids
    if not 1 <= len(ids) < model.max_sequence_tokens:
        yield Violation(
            "resumed.ids",
            f"got {len(ids)}; send 1 to {model.max_sequence_tokens - 1} tokens that were "
            "received, or leave it out",
        )
    elif request.sampling.n > 1:
        yield Violation("resumed", f"got it with sampling.n {request.sampling.n}; only 1 can go on")
    else:
        yield from _vocabulary("resumed.ids", ids, model)


def _length(field: str, tokens: int, model: ModelInfo) -> Iterable[Violation]:
    most = model.max_sequence_tokens - 1
    if not 1 <= tokens <= most:
        yield Violation(
            field,
            f"got a prompt of {tokens} tokens; this model takes 1 to {most}, which leaves one to "
            "draw",
        )


def _vocabulary(field: str, ids: Any, model: ModelInfo) -> Iterable[Violation]:
    if ids and max(ids) >= model.vocabulary_size:
        i = next(i for i, token in enumerate(ids) if token >= model.vocabulary_size)
        yield Violation(
            f"{field}[{i}]",
            f"got {ids[i]}; this model's ids are 0 to {model.vocabulary_size - 1}",
        )


def _stopping(stopping: sluice_pb2.Stopping, model: ModelInfo) -> Iterable[Violation]:
    yield from _rules("stopping.", stopping, ranges.STOPPING)
    yield from _count("stopping.stop", len(stopping.stop), ranges.MAX_STOP_STRINGS)
    for i, stop in enumerate(stopping.stop[: ranges.MAX_STOP_STRINGS]):
        yield from _characters(f"stopping.stop[{i}]", len(stop), ranges.MAX_STOP_CHARACTERS)
    ids = stopping.stop_token_ids
    yield from _count("stopping.stop_token_ids", len(ids), ranges.MAX_STOP_TOKEN_IDS)
    yield from _vocabulary("stopping.stop_token_ids", ids, model)


def _count(field: str, count: int, most: int) -> Iterable[Violation]:
    if count > most:
        yield Violation(field, f"got {count}; send at most {most}")


def _kv_budget(budget: sluice_pb2.KvBudget, model: ModelInfo) -> Iterable[Violation]:
    yield from _rules("kv_budget.", budget, ranges.KV_BUDGET)
    name = budget.policy if budget.HasField("policy") else model.default_policy
    policy = next((policy for policy in model.policies if policy.name == name), None)
    if policy is None:
        names = ", ".join(policy.name for policy in model.policies)
        yield Violation("kv_budget.policy", f"got {shown(name)}; this server has {names}")
    else:
        yield from _policy_settings(budget.policy_settings, policy)


def _policy_settings(settings: Any, policy: PolicyInfo) -> Iterable[Violation]:
    known = {setting.name: setting for setting in policy.settings}
    unknown = islice((name for name in settings if name not in known), MAX_VIOLATIONS)
    for name in sorted([*unknown, *(known.keys() & settings.keys())]):
        setting = known.get(name)
        field = f"kv_budget.policy_settings[{name if setting else shown(name)}]"
        if setting is None:
            names = ", ".join(known) or "no settings"
            yield Violation(field, f"policy {policy.name} has {names}")
        elif not _in_range(settings[name], setting):
            whole = "a whole number from " if setting.integer else ""
            yield Violation(
                field,
                f"got {settings[name]:.7g}; send {whole}{setting.minimum:g} to "
                f"{setting.maximum:g}, or leave it out for {setting.default:g}",
            )


def _in_range(value: float, setting: PolicySetting) -> bool:
    return (
        math.isfinite(value)
        and setting.minimum <= value <= setting.maximum
        and (not setting.integer or value == int(value))
    )
