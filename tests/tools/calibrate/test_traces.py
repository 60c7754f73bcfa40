"""Traces that a model generates, and the prompts they come from."""

import re
from pathlib import Path

import pytest

from clients.errors import DataError
from clients.workloads.pocket import FAMILIES, split_of
from tests.tools.calibrate.subjects import POCKET, pocket, silent
from tools.calibrate.traces import generate, prompts_for
from tools.pocket.evaluate import greedy


def test_traces_are_what_plain_transformers_generates() -> None:
    prompts = prompts_for(str(POCKET), None, 2, 0)
    traces = generate(pocket(), prompts, 400, 0, silent)
    tokenizer = pocket().tokenizer
    answers = dict(zip(prompts, greedy(pocket().model, tokenizer, prompts, 400), strict=True))
    assert len(traces) == 2
    for trace in traces:
        prompt = tokenizer.decode(trace.ids[: trace.prompt])
        (asked,) = [p for p in prompts if p in prompt]
        assert prompt == f"<s>{asked}<think>"
        assert tokenizer.decode(trace.ids[trace.prompt :]) == answers[asked]
        assert trace.ids[-1] != tokenizer.eos_token_id
        assert answers[asked].endswith("}")


def test_traces_end_where_they_are_cut() -> None:
    (trace,) = generate(pocket(), ["hop g;5979;3"], 7, 0, silent)
    assert len(trace.ids) == trace.prompt + 7


def test_pocket_prompts_are_of_no_problem_that_is_evaluated() -> None:
    prompts = prompts_for(str(POCKET), None, 52, 0)
    assert len(set(prompts)) == 52
    families = [prompt.split()[0] for prompt in prompts]
    assert set(families[:5]) == set(FAMILIES)
    for family, prompt in zip(families, prompts, strict=True):
        (seed,) = re.findall(r"\d{4}", prompt)
        assert split_of(family, seed) == "train"
    assert prompts_for(str(POCKET), None, 5, 1) != prompts[:5]


def test_prompts_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one"}\n\n{"prompt": "two", "answer": 2}\n{"prompt": "three"}\n')
    assert prompts_for("any/model", file, 2, 0) == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no prompts"),
        ('{"prompt": "a"}\n{"question": "b"}', ":2: want an object with a text in prompt"),
        ("[1]", ":1: want an object"),
        ("{", "cannot read the prompts"),
        (None, "cannot read the prompts"),
    ],
)
def test_a_file_that_cannot_be_used(text: str | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=complaint):
        prompts_for("any/model", file, 2, 0)


def test_another_model_needs_a_file() -> None:
    with pytest.raises(DataError, match=r"for owner/big give --prompts FILE\.jsonl"):
        prompts_for("owner/big", None, 2, 0)
