"""One pocket problem, decoded by the engine with a note of what each round left in the pool."""

from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.config import EngineConfig
from engine.eviction import POLICIES
from engine.runner import ModelRunner
from scheduler.budget import BudgetLimits, BudgetRequest, resolve
from scheduler.config import SchedulerConfig
from scheduler.plan import StepPlan, StepResult
from scheduler.request import Request, Sampling, Sequence

MODEL = Path(__file__).parents[3] / "models" / "pocket-llama"
PROBLEM = "hop f;1930;12"  # solved in 171 tokens
CAP, NEW_TOKENS = 96, 190


class PocketRunner(ModelRunner):
    """A ModelRunner of the pocket model; remembers positions of what is kept, by request."""

    def __init__(self) -> None:
        super().__init__(
            EngineConfig(
                model=str(MODEL),
                device="cpu",
                threads=1,
                kv_blocks=160,
                scheduler=SchedulerConfig(max_running=20, max_batch_tokens=128),
            )
        )
        # request -> of each round [layers, kv_heads, kept]
        self.kept: dict[int, list[torch.Tensor]] = defaultdict(list)

    def execute(self, plan: StepPlan) -> StepResult:
        result = super().execute(plan)
        for eviction in plan.evictions:  # what the step itself wrote lies behind `keep`
            self._note(eviction.sequence, list(eviction.blocks), eviction.keep)
        return result

    def choose_blocks(self, sequence: Sequence, candidates: list[int], count: int) -> list[int]:
        chosen = super().choose_blocks(sequence, candidates, count)
        left = [block for block in sequence.blocks if block not in chosen]
        keep = sequence.kv_tokens - count * self._config.scheduler.block_size
        self._note(sequence, left, keep)
        return chosen

    def _note(self, sequence: Sequence, blocks: list[int], keep: int) -> None:
        positions = self._evictor._views.pool.positions
        table = positions[:, blocks].movedim(2, 1).flatten(2)
        self.kept[sequence.request.key].append(table[..., :keep].clone())


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@cache
def dense_model(attention: str) -> Any:
    """The model in float64, as far as transformers' norms and rotary angles let it."""
    model = AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.float64, attn_implementation=attention
    )
    return model.eval().requires_grad_(False)


def request(policy: str) -> Request:
    """The problem under the default budget of CAP tokens, drawn greedily and past its end.

    Some policies make the model give up early; all of them are to go through several rounds.
    """
    chat = [{"role": "user", "content": PROBLEM}]
    text = tokenizer().apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    prompt = tuple(tokenizer()(text, add_special_tokens=False)["input_ids"])
    budget = resolve(
        BudgetRequest(max_tokens=CAP, policy=policy),
        BudgetLimits(),
        prompt_tokens=len(prompt),
        max_new_tokens=NEW_TOKENS,
        recent_share=POLICIES[policy].recent_share,
        unit=SchedulerConfig.block_size if POLICIES[policy].whole_blocks else 1,
    )
    return Request(
        key=list(POLICIES).index(policy),
        prompt=prompt,
        max_new_tokens=NEW_TOKENS,
        sampling=Sampling(temperature=0.0, seed=3),
        budget=budget,
        salt=policy,  # each computes its own prompt
    )


def frequencies() -> torch.Tensor:
    """Of the rotary embedding, from its definition: theta^(-2i / head_dim); [layers, half]."""
    config = dense_model("eager").config
    half = config.head_dim // 2
    one = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(half).double() / half)
    return one.expand(config.num_hidden_layers, half)


def artifact(policy: str) -> dict[str, torch.Tensor] | None:
    """The policy's file beside the model, if it has one."""
    path = MODEL / f"{policy}.safetensors"
    return load_file(path) if path.exists() else None
