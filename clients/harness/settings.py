"""From --model_args and a task's generation settings to requests. Knows nothing of lm_eval."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from clients.errors import HarnessError
from clients.settings import Chat, KvBudget, Message, Prompt, Request, Sampling, Stopping

STOPS, STOP_CHARACTERS = 16, 256  # that the contract takes; other stop strings are cut out here
STREAM_INTERVAL = 8  # tokens; nobody reads along, but a stop string is seen no sooner
DRAWS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # of a task


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What --model_args may hold. None: the server's default."""

    server: str = "127.0.0.1:7700"
    model: str | None = None
    budget: int | None = None  # KV tokens of an answer; 0: no budget
    floor: int | None = None  # KV tokens that pressure may take it down to
    policy: str | None = None
    concurrency: int = 16  # requests in flight
    max_tokens: int = 256  # new tokens of tasks that name no max_gen_toks; lm_eval's own default
    timeout: float | None = None  # seconds for an answer, retries included
    seed: int = 0  # of draws; the n-th request has seed + n
    think_end_token: str | None = None  # only what follows it is the answer

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Arguments":
        """The arguments as lm_eval parsed them.

        Raises:
            HarnessError: one is unknown or of the wrong kind.
        """
        try:
            arguments = msgspec.convert(dict(given), cls, strict=False)
        except msgspec.ValidationError as error:
            allowed = ", ".join(cls.__struct_fields__)
            raise HarnessError(f"--model_args: {error}; allowed are {allowed}") from error
        if arguments.concurrency < 1:
            raise HarnessError(
                f"--model_args: got concurrency={arguments.concurrency}; want 1 or more"
            )
        return arguments


class Conversation(str):
    """Messages on their way through lm_eval, which wants a prompt to be text: their JSON."""

    __slots__ = ()

    @classmethod
    def of(cls, messages: list[dict[str, str]]) -> "Conversation":
        return cls(json.dumps(messages, ensure_ascii=False))

    @property
    def chat(self) -> Chat:
        return Chat(tuple(Message(turn["role"], turn["content"]) for turn in json.loads(self)))


def make_request(
    prompt: str, generation: Mapping[str, Any], arguments: Arguments, number: int
) -> Request:
    """Request `number` of a run.

    Args:
        prompt: a Conversation, or plain text, which is tokenised as it stands.
        generation: settings of the task, normalised by lm_eval (`normalize_gen_kwargs`).

    Raises:
        HarnessError: a setting that the service does not have.
    """
    known = {"until", "max_gen_toks", "do_sample", "num_beams", *DRAWS}
    unknown = sorted(generation.keys() - known)
    if unknown or generation.get("num_beams", 1) != 1:
        raise HarnessError(
            f"the task sets {', '.join(unknown) or 'num_beams'}, which this service does not have; "
            f"it has {', '.join(sorted(known - {'num_beams'}))}"
        )
    draws = {name: generation[name] for name in DRAWS if generation.get(name) is not None}
    if not generation.get("do_sample"):
        draws["temperature"] = 0.0
    given: Prompt = prompt.chat if isinstance(prompt, Conversation) else prompt
    return Request(
        given,
        model=arguments.model,
        kv_budget=KvBudget(
            max_tokens=arguments.budget, min_tokens=arguments.floor, policy=arguments.policy
        ),
        sampling=Sampling(**draws, seed=arguments.seed + number),
        stopping=Stopping(
            max_tokens=generation["max_gen_toks"], stop=server_stops(generation, arguments)
        ),
        stream_interval=STREAM_INTERVAL,
    )


def server_stops(generation: Mapping[str, Any], arguments: Arguments) -> tuple[str, ...]:
    """The stop strings that the server can look for; the text is cut at the others here.

    None where an answer follows its thinking: there they would end it within.
    """
    if arguments.think_end_token:
        return ()
    fitting = [stop for stop in generation["until"] if 1 <= len(stop) <= STOP_CHARACTERS]
    return tuple(fitting[:STOPS])
