"""What an fp8 KV cache costs in answers: both pocket models with a float32 and an fp8 cache.

    python -m benchmarks.kv_dtype            128 problems a cell, one thread, about 5 minutes
    python -m benchmarks.kv_dtype --quick    24 problems a cell and one policy, under a minute

Greedy answers to the same problems, with the whole cache and at BUDGET tokens. No server: a
scheduler and a runner for each type, both with a pool that holds all that run at once. Speed is
tokens per second of the process's own clock, everything included, which other processes on the
machine disturb less; both types take
turns. Appends to benchmarks/results/kv_dtype.jsonl; the last line
on stdout is one JSON object.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch and numba are loaded
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

from transformers import AutoTokenizer

from benchmarks import results
from benchmarks.inprocess import budget_of
from clients.demo import MODELS_DIRECTORY
from clients.records import Record
from clients.scoring import score_math
from clients.statistics import paired_difference, pass_at_1
from clients.workloads.pocket import DEMO_FAMILIES, problems
from clients.workloads.problem import Problem
from engine.config import EngineConfig, SchedulerConfig
from engine.runner import ModelRunner
from scheduler.request import FinishReason, Request, Sampling
from scheduler.request import Sequence as Output
from scheduler.scheduler import Scheduler

MODELS = ("pocket-llama", "pocket-qwen")
BUDGET = 192  # tokens, of traces near 280
CANDIDATES = ("key_diff", "lag_kv", "regret")  # policies; those that the model has what they need
MAX_TOKENS = 448  # the longest traces are near 420
RUNNING = 64
SEED = 7003  # of problems on which nothing was tuned


@dataclass(frozen=True)
class Comparison:
    """One model at one budget; differences are fp8 minus float32, paired by problem."""

    model: str
    budget: int | None
    policy: str | None
    problems: int
    pass_at_1_float32: float
    pass_at_1_fp8: float
    difference: float
    low: float  # of a 95 % bootstrap interval
    high: float
    identical: float  # share of answers that are the same text
    evicted: float  # cache entries of one answer, mean, with the fp8 cache
    tokens_per_second_float32: float
    tokens_per_second_fp8: float
    kv_bytes_per_token_float32: int
    kv_bytes_per_token_fp8: int


class Engine:
    """One model with one type of cache, and what turns problems into requests and back."""

    def __init__(self, model: str, kv_dtype: str) -> None:
        self.model = model
        directory = str(MODELS_DIRECTORY / model)
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._settings = SchedulerConfig(max_running=RUNNING)
        longest = MAX_TOKENS + 64  # prompts are shorter
        self.runner = ModelRunner(
            EngineConfig(
                model=directory,
                device="cpu",
                threads=1,
                kv_dtype=kv_dtype,
                kv_blocks=RUNNING * -(-longest // SchedulerConfig.block_size),
                scheduler=self._settings,
            )
        )
        self.info = self.runner.describe()

    def answer(
        self, asked: Sequence[Problem], budget: int | None, policy: str | None
    ) -> tuple[list[Record], float]:
        """One record per problem, in their order, and the seconds of processor time it took."""
        scheduler = Scheduler(self._settings, self.runner.total_blocks, self.runner.choose_blocks)
        for key, problem in enumerate(asked):
            scheduler.submit(self._request(key, problem, budget, policy))
        outputs: dict[int, tuple[Output, FinishReason]] = {}
        started, step = time.process_time(), 0
        while scheduler.num_live:
            plan = scheduler.plan(now=float(step))
            scheduler.commit(plan, self.runner.execute(plan), now=float(step))
            for output, reason in scheduler.take_finished():
                outputs[output.request.key] = output, reason
            step += 1
        seconds = time.process_time() - started
        records = [
            self._record(problem, budget, policy, *outputs[key])
            for key, problem in enumerate(asked)
        ]
        return records, seconds

    def _request(
        self, key: int, problem: Problem, budget: int | None, policy: str | None
    ) -> Request:
        chat = [{"role": "user", "content": problem.prompt}]
        text = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        prompt = tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return Request(
            key,
            prompt,
            MAX_TOKENS,
            sampling=Sampling(temperature=0.0),
            end_ids=frozenset(self.info.eos_token_ids),
            budget=budget_of(budget, policy, len(prompt), MAX_TOKENS)
            if budget and policy
            else None,
            salt=f"{policy} {key}",  # nothing of an earlier run is taken over
        )

    def _record(
        self,
        problem: Problem,
        budget: int | None,
        policy: str | None,
        output: Output,
        reason: FinishReason,
    ) -> Record:
        made = output.tokens[output.prompt_tokens :]
        text = self._tokenizer.decode(made, skip_special_tokens=True)
        score = score_math(text, problem.answer, truncated=reason is FinishReason.LENGTH)
        return Record(
            run="kv_dtype",
            model=self.model,
            task=problem.task,
            problem=problem.id,
            sample=0,
            seed=SEED,
            budget=budget,
            policy=policy,
            gold=problem.answer,
            extracted=score.extracted,
            correct=score.correct,
            status=score.status,
            finish_reason=str(reason),
            completion_tokens=len(made),
            kv_tokens_evicted=output.usage.kv_tokens_evicted,
            text=text,
        )


def compare(
    cell: tuple[int | None, str | None], wide: Engine, narrow: Engine, asked: Sequence[Problem]
) -> Comparison:
    """Both engines on the same problems under one budget and policy."""
    answers: tuple[list[Record], list[Record]] = [], []
    spent = [0.0, 0.0]
    for first in range(0, len(asked), RUNNING):  # in turns, so that both see the same noise
        part = asked[first : first + RUNNING]
        for index, engine in enumerate((wide, narrow)):
            records, seconds = engine.answer(part, *cell)
            answers[index].extend(records)
            spent[index] += seconds
    exact, rounded = answers
    difference = paired_difference(rounded, exact)
    scores = [pass_at_1(records) for records in answers]
    assert difference is not None
    assert scores[0] is not None
    assert scores[1] is not None
    same = [left.text == right.text for left, right in zip(exact, rounded, strict=True)]
    speeds = [
        sum(record.completion_tokens for record in records) / seconds
        for records, seconds in zip(answers, spent, strict=True)
    ]
    return Comparison(
        wide.model,
        *cell,
        len(asked),
        scores[0],
        scores[1],
        difference.mean,
        difference.low,
        difference.high,
        sum(same) / len(same),
        sum(record.kv_tokens_evicted for record in rounded) / len(rounded),
        speeds[0],
        speeds[1],
        wide.info.kv_bytes_per_token,
        narrow.info.kv_bytes_per_token,
    )


def measure(model: str, count: int, candidates: Sequence[str]) -> Iterator[Comparison]:
    """All cells of one model, on `count` problems."""
    per_task = -(-count // len(DEMO_FAMILIES))
    asked = [p for task in DEMO_FAMILIES for p in problems(task, per_task, SEED)][:count]
    turns = -(-count // RUNNING)
    asked = [problem for turn in range(turns) for problem in asked[turn::turns]]  # of all families
    wide, narrow = Engine(model, "auto"), Engine(model, "fp8_e4m3")
    usable = {policy.name for policy in wide.info.policies if not policy.unavailable}
    for engine in (wide, narrow):
        engine.answer(asked[:4], None, None)  # warm-up
    for cell in [(None, None), *((BUDGET, name) for name in candidates if name in usable)]:
        yield compare(cell, wide, narrow, asked)


def table(rows: Sequence[Comparison]) -> Table:
    """A line for each cell."""
    drawn = Table(title="An fp8 KV cache against a float32 one, greedy")
    for name in ("model", "budget", "float32", "fp8", "difference", "identical", "tokens/s"):
        drawn.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        drawn.add_row(
            row.model,
            "whole" if row.budget is None else f"{row.budget} {row.policy}",
            f"{row.pass_at_1_float32:.3f}",
            f"{row.pass_at_1_fp8:.3f}",
            f"{row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})",
            f"{row.identical:.0%}",
            f"{row.tokens_per_second_float32:,.0f} / {row.tokens_per_second_fp8:,.0f}",
        )
    return drawn


def main(
    quick: Annotated[bool, typer.Option("--quick", help="24 problems and one policy.")] = False,
    problems: Annotated[int, typer.Option(min=2, help="Per cell.")] = 128,
) -> None:
    """Measures, prints the table, appends the rows."""
    console = Console(stderr=True, width=120)
    count, candidates = (24, CANDIDATES[:1]) if quick else (problems, CANDIDATES)
    found: list[Comparison] = []
    for model in MODELS:
        for row in measure(model, count, candidates):
            console.print(f"measured {row.model}, {row.policy or 'whole cache'}", highlight=False)
            found.append(row)
    console.print(table(found))
    rows: list[dict[str, Any]] = [asdict(row) for row in found]
    results.append("kv_dtype", [{**row, "quick": quick} for row in rows])
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    typer.run(main)
