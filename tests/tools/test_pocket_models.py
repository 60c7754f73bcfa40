"""The pocket models that ship: what the rest of the project relies on them being."""

import random
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from clients.workloads.pocket import DEMO_FAMILIES, problems
from tests.thorough import THOROUGH
from tools.pocket.evaluate import boxed, greedy
from tools.pocket.tokenizer import build_tokenizer

MODELS = Path(__file__).parents[2] / "models"
ARCHITECTURES = {"pocket-llama": "LlamaForCausalLM", "pocket-qwen": "Qwen2ForCausalLM"}
ASKED = 24 if THOROUGH else 8


@cache
def load(name: str) -> tuple[Any, Any]:
    folder = MODELS / name
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=list(ARCHITECTURES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_folder_is_small_and_complete(name: str) -> None:
    files = {path.name: path.stat().st_size for path in (MODELS / name).iterdir()}
    assert sum(files.values()) < 3_000_000
    assert files.keys() >= {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_weights_are_bfloat16_and_finite(name: str) -> None:
    with safe_open(MODELS / name / "model.safetensors", framework="pt") as weights:
        tensors = [weights.get_tensor(key) for key in weights.keys()]  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_the_shape_is_the_documented_one(name: str) -> None:
    config = AutoConfig.from_pretrained(MODELS / name)
    assert config.architectures == [ARCHITECTURES[name]]
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (4, 128, 384)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 32)
    assert config.tie_word_embeddings
    assert config.max_position_embeddings == 2048


def test_the_tokenizer_is_the_one_the_tools_build(name: str) -> None:
    _, tokenizer = load(name)
    built = build_tokenizer()
    rng = random.Random(2)
    texts = ["".join(map(chr, rng.choices(range(1, 0xD7FF), k=30))) for _ in range(100)]
    for text in ["hop g;5979;4<think>04>7</think>\\boxed{538}</s>", "e\u0301", *texts]:
        if name == "pocket-qwen":  # transformers' Qwen2Tokenizer normalises
            text = unicodedata.normalize("NFC", text)
        ids = tokenizer.encode(text)
        assert ids == built.encode(text).ids
        assert tokenizer.decode(ids) == text


def test_special_ids_agree_everywhere(name: str) -> None:
    model, tokenizer = load(name)
    for token in ("bos", "eos", "pad"):
        token_id = getattr(tokenizer, f"{token}_token_id")
        assert token_id == getattr(model.config, f"{token}_token_id")
        assert token_id == getattr(model.generation_config, f"{token}_token_id")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_reasoning_marker_survives_skipping_special_tokens(name: str) -> None:
    _, tokenizer = load(name)
    ids = tokenizer.encode("1</think>\\boxed{538}</s>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "1</think>\\boxed{538}"


@cache
def solved(name: str) -> dict[str, int]:
    """Right answers by family, every family in one batch: a step costs little more for 48 rows."""
    model, tokenizer = load(name)
    questions = [problem for task in DEMO_FAMILIES for problem in problems(task, ASKED, seed=11)]
    threads = torch.get_num_threads()
    # Two threads on a busy two-core machine took ten times as long as one.
    torch.set_num_threads(1)
    try:
        answers = greedy(model, tokenizer, [question.prompt for question in questions])
    finally:
        torch.set_num_threads(threads)
    right = dict.fromkeys(DEMO_FAMILIES, 0)
    for answer, question in zip(answers, questions, strict=True):
        right[question.task] += boxed(answer) == question.answer
    return right


@pytest.mark.parametrize("task", DEMO_FAMILIES)
def test_most_problems_are_solved_by_plain_transformers(name: str, task: str) -> None:
    assert solved(name)[task] >= 0.75 * ASKED
