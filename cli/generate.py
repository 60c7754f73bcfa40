"""`sluice generate`: one prompt, streamed to the terminal, with what its KV cache went through."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.failures import one_line_errors
from cli.options import DEFAULT_SERVER, MaxTokens, Timeout, TopK, TopP, option
from clients.sdk import (
    AsyncClient,
    Chat,
    Completion,
    Gatherer,
    KvBudget,
    Output,
    Request,
    Sampling,
    Stopping,
    Tokens,
)

FACTS: dict[str, Callable[[Output], object]] = {
    "finish reason": lambda o: o.finish_reason,
    "prompt tokens": lambda o: o.usage.prompt_tokens,
    "new tokens": lambda o: o.usage.completion_tokens,
    "of these thinking": lambda o: o.usage.reasoning_tokens,
    "of these before a break": lambda o: o.usage.resumed_tokens,
    "KV tokens, most": lambda o: o.usage.kv_tokens_peak,
    "KV tokens, at the end": lambda o: o.usage.kv_tokens_final,
    "KV tokens evicted": lambda o: o.usage.kv_tokens_evicted,
    "of these pressed": lambda o: o.usage.kv_tokens_pressed,
    "eviction rounds": lambda o: o.usage.eviction_rounds,
    "KV blocks, most": lambda o: o.usage.kv_blocks_peak,
    "preemptions": lambda o: o.usage.preemptions,
    "seconds queued": lambda o: f"{o.usage.queue_seconds:.3f}",
    "seconds decoding": lambda o: f"{o.usage.decode_seconds:.3f}",
}

Prompt = Annotated[str, typer.Argument(help="What to ask.")]
Server = Annotated[str, typer.Option(help="host:port of the service.")]
UseChat = Annotated[
    bool | None,
    option("Chat template or as it stands; default: chat if there is one.", "--chat/--text"),
]
KvTokens = Annotated[int | None, option("Most KV tokens to hold, prompt included; 0: no budget.")]
Floor = Annotated[int | None, option("KV tokens that pressure may take it down to; elastic then.")]
Policy = Annotated[str | None, option("Who chooses what is evicted, for example h2o.")]
Setting = Annotated[list[str] | None, option("Of the policy, NAME=NUMBER; may be repeated.")]
Recent = Annotated[int | None, option("Newest tokens that are never evicted.")]
Reclaim = Annotated[int | None, option("Tokens freed by one eviction round.")]
EvictPrompt = Annotated[bool | None, option("Let the prompt be evicted too.", "--evict-prompt")]
Stop = Annotated[list[str] | None, option("End at this text; may be repeated.")]
Temperature = Annotated[float | None, option("0 is greedy.")]
Seed = Annotated[int | None, option("Seed of the draw.")]
Answers = Annotated[int | None, option("Answers to this prompt.", "--n")]


def generate(  # noqa: PLR0913 - the signature is the command line
    prompt: Prompt,
    server: Server = DEFAULT_SERVER,
    chat: UseChat = None,
    kv_budget: KvTokens = None,
    floor: Floor = None,
    policy: Policy = None,
    setting: Setting = None,
    recent: Recent = None,
    reclaim: Reclaim = None,
    evict_prompt: EvictPrompt = None,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    n: Answers = None,
    timeout: Timeout = None,
) -> None:
    """Stream the answer to one prompt; the KV numbers follow on stderr."""
    budget = KvBudget(
        max_tokens=kv_budget,
        policy=policy,
        policy_settings=dict(_setting(text) for text in setting or ()),
        recent_tokens=recent,
        reclaim_tokens=reclaim,
        min_tokens=floor,
        evict_prompt=evict_prompt,
    )
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, n=n)
    stopping = Stopping(max_tokens=max_tokens, stop=tuple(stop or ()))
    request = Request(prompt, kv_budget=budget, sampling=sampling, stopping=stopping)
    with one_line_errors():
        asyncio.run(_generate(server, request, chat, timeout))


async def _generate(
    server: str, request: Request, chat: bool | None, timeout: float | None
) -> None:
    async with AsyncClient(server) as client:
        if chat is None:
            chat = (await client.model_info()).has_chat_template
        if chat:
            request = replace(request, prompt=Chat.user(str(request.prompt)))
        gatherer = Gatherer(request.num_outputs, time.monotonic())
        async with aclosing(client.generate(request, timeout=timeout)) as events:
            async for event in events:
                gatherer.add(event, time.monotonic())
                if isinstance(event, Tokens) and request.num_outputs == 1:
                    print(event.text, end="", flush=True)
    completion = gatherer.completion()
    if request.num_outputs == 1:
        print()
    else:
        for output in completion.outputs:
            print(f"[{output.index}] {output.text}")
    _show(completion)


def _show(completion: Completion) -> None:
    """What the answer cost, on stderr: one column per output."""
    granted = completion.accepted
    budget = "no budget"
    if granted.kv_budget:
        least = "" if granted.min_tokens == granted.kv_budget else f"{granted.min_tokens} to "
        budget = f"KV budget {least}{granted.kv_budget}, {granted.policy}"
    table = Table(title=f"{budget}, seed {granted.seed}", title_justify="left", show_header=False)
    for name, value in FACTS.items():
        table.add_row(name, *(str(value(output)) for output in completion.outputs))
    Console(stderr=True).print(table)


def _setting(text: str) -> tuple[str, float]:
    name, separator, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        separator = ""
    if not name or not separator:
        raise typer.BadParameter(f"got {text!r}, want NAME=NUMBER", param_hint="--setting")
    return name, number
