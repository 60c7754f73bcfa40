"""The comparison of engines: same tokens first, then speeds, then one line for machines."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from benchmarks import engine
from benchmarks.agreement import NEAR_TIE, Disagreement, compare
from benchmarks.inprocess import InProcess, requests
from benchmarks.peers.gguf_file import interleave, write_gguf
from benchmarks.peers.hugging_face import reference_logits
from benchmarks.prompts import problem_prompts
from benchmarks.workload import Workload
from clients.demo import MODELS_DIRECTORY

ROOT = Path(__file__).parents[2]
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.slow
def test_the_command_ends_with_one_line_of_ratios_and_stores_rows(tmp_path: Path) -> None:
    options = "--requests 8 --new-tokens 8 --prompt 5 --threads 1 --repeats 2 --budget 64"
    command = [sys.executable, "-m", "benchmarks.engine", *options.split()]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    last = json.loads(done.stdout.splitlines()[-1])
    speeds = last["tokens_per_second"]
    assert list(speeds) == ["sluice", *engine.DEFAULT_PEERS, "sluice_r_kv_64"]
    for name in engine.DEFAULT_PEERS:
        assert last[f"ratio_{name}"] == pytest.approx(speeds["sluice"] / speeds[name])
    assert last["ratio_llama_cpp"] is None
    rows = [json.loads(line) for line in (tmp_path / "engine.jsonl").read_text().splitlines()]
    assert [row["system"] for row in rows] == list(speeds)
    for row in rows:
        assert (row["requests"], row["prompt_tokens"], row["new_tokens"]) == (8, 5, 8)
        assert (row["threads"], len(row["runs"])) == (1, 2)
    assert [row["agreement"] is None for row in rows] == [True, False, False, True]
    assert rows[1]["agreement"]["equal_first_tokens"] == 1.0


def test_our_tokens_are_those_of_the_model_and_a_budget_evicts() -> None:
    model = str(MODELS_DIRECTORY / "pocket-llama")
    prompts = problem_prompts(model, 3, 16)
    runner = InProcess(model, threads=1, running=3, tokens=16 + 40)
    run = runner.run(requests(prompts, 40))
    assert [len(tokens) for tokens in run.tokens] == [40] * 3
    assert run.steps == 40
    logits = reference_logits(model, [p + t[:20] for p, t in zip(prompts, run.tokens, strict=True)])
    assert logits.argmax(dim=-1).tolist() == [tokens[20] for tokens in run.tokens]
    assert all(len(set(tokens)) > 4 for tokens in run.tokens)  # else agreement shows nothing
    evicted = runner.run(requests(prompts, 40, cap=40, policy="window"))
    assert evicted.tokens != run.tokens


@pytest.mark.parametrize("tokens", [3, 16, 50])
def test_prompts_have_one_length_and_differ(tokens: int) -> None:
    model = str(MODELS_DIRECTORY / "pocket-llama")
    prompts = problem_prompts(model, 6, tokens)
    assert [len(prompt) for prompt in prompts] == [tokens] * 6
    assert len({tuple(prompt) for prompt in prompts}) == 6
    assert prompts[5][-3:] == problem_prompts(model, 6, 3)[5]


def test_a_model_without_tokenizer_gets_random_ids(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(tmp_path)
    prompts = problem_prompts(str(tmp_path), 3, 5)
    assert [len(prompt) for prompt in prompts] == [5] * 3
    assert all(0 <= token < 256 for prompt in prompts for token in prompt)


# --- agreement

PROMPTS = [[1], [2], [3], [4]]
OURS = [[5, 6], [5, 7], [5, 8], [5, 9]]


def no_logits(sequences: list[list[int]]) -> torch.Tensor:
    raise AssertionError("asked for logits where nothing parts")


def test_equal_tokens_need_no_logits() -> None:
    found = compare("peer", PROMPTS, OURS, [list(row) for row in OURS], no_logits)
    assert (found.equal_tokens, found.identical_requests, found.turned_ties) == (1.0, 1.0, 0)


@pytest.mark.parametrize("behind", [0.0, 0.5 * NEAR_TIE, 2 * NEAR_TIE, 1.0])
@pytest.mark.parametrize("best", [9, 3])
def test_a_request_may_part_at_a_near_tie_only(behind: float, best: int) -> None:
    theirs = [*OURS[:3], [5, 3]]
    asked = []

    def logits(sequences: list[list[int]]) -> torch.Tensor:
        asked.extend(sequences)
        row = torch.zeros(1, 10)
        row[0, [3, 9]] = 10.0
        row[0, 12 - best] -= behind * float(row.std())
        return row

    if behind > NEAR_TIE:
        whose = "ours" if best == 3 else "that of peer"
        with pytest.raises(Disagreement, match=f"request 3 .* new token 1, where {whose}"):
            compare("peer", PROMPTS, OURS, theirs, logits)
    else:
        found = compare("peer", PROMPTS, OURS, theirs, logits)
        assert (found.equal_tokens, found.identical_requests) == (7 / 8, 3 / 4)
        assert found.turned_ties == 1
    assert asked == [[4, 5]]


def test_other_first_tokens_or_counts_are_another_model() -> None:
    theirs = [[0, 6], [0, 7], *OURS[2:]]
    with pytest.raises(Disagreement, match="first token for 2 of 4"):
        compare("peer", PROMPTS, OURS, theirs, no_logits)
    with pytest.raises(Disagreement, match=r"4 outputs of \[1\] tokens; asked were 4 of 2"):
        compare("peer", PROMPTS, OURS, [row[:1] for row in OURS], no_logits)


def test_wrong_tokens_of_the_real_model_are_refused() -> None:
    model = str(MODELS_DIRECTORY / "pocket-llama")
    prompts = problem_prompts(model, 4, 16)
    ours = InProcess(model, threads=1, running=4, tokens=22).run(requests(prompts, 6)).tokens
    theirs = [[*row[:4], (row[4] + 1) % 256, row[5]] for row in ours]
    with pytest.raises(Disagreement, match="request 0 parts from peer at new token 4"):
        compare("peer", prompts, ours, theirs, lambda s: reference_logits(model, s))


def test_peers_are_named_or_all_and_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(typer.BadParameter, match=r"'vllm'; allowed: .*llama_cpp, all"):
        engine.chosen_peers(["vllm"])
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    assert engine.chosen_peers([*engine.DEFAULT_PEERS] * 2) == engine.DEFAULT_PEERS
    for vs in (["llama_cpp"], ["all"]):
        with pytest.raises(typer.BadParameter, match=r"pip install -e '\.\[peers\]'"):
            engine.chosen_peers(vs)
    monkeypatch.setattr(engine, "find_spec", lambda name: object())
    assert engine.chosen_peers(["all"]) == list(engine.PEERS)


# --- GGUF and llama.cpp


def test_interleaved_rows_rotate_by_neighbours_as_halves_did() -> None:
    heads, dim = 3, 8
    rows = np.random.default_rng(0).normal(size=(heads * dim, 5))
    angles = np.linspace(0.1, 2.0, dim // 2)
    cos, sin = np.cos(angles)[None, :, None], np.sin(angles)[None, :, None]

    split = rows.reshape(heads, 2, dim // 2, 5)
    a, b = split[:, 0], split[:, 1]
    halves = np.stack([a * cos - b * sin, b * cos + a * sin], axis=1).reshape(rows.shape)

    pairs = interleave(rows, heads).reshape(heads, dim // 2, 2, 5)
    a, b = pairs[:, :, 0], pairs[:, :, 1]
    neighbours = np.stack([a * cos - b * sin, b * cos + a * sin], axis=2).reshape(rows.shape)
    assert np.allclose(neighbours, interleave(halves, heads))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_gguf_holds_what_the_model_holds(tmp_path: Path, architecture: str, tied: bool) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install -e '.[peers]'")
    torch.manual_seed(0)
    if architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=tied))
    write_gguf(model, tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    found = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    layer = model.model.layers[1]
    query, key = (
        w.detach().numpy() for w in (layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight)
    )
    if architecture == "llama":
        query, key = interleave(query, 4), interleave(key, 2)
    assert np.array_equal(found["blk.1.attn_q.weight"], query)
    assert np.array_equal(found["blk.1.attn_k.weight"], key)
    assert np.array_equal(found["blk.1.ffn_down.weight"], layer.mlp.down_proj.weight.detach())
    assert ("blk.1.attn_q.bias" in found) == (architecture == "qwen2")
    assert ("output.weight" in found) != tied
    assert reader.get_field(f"{architecture}.attention.head_count_kv").contents() == 2


def test_other_architectures_and_rotations_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed: pip install -e '.[peers]'")
    with pytest.raises(ValueError, match=r"is a Linear; .* LlamaForCausalLM, Qwen2ForCausalLM"):
        write_gguf(torch.nn.Linear(1, 1), tmp_path / "model.gguf")
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=rope))
    with pytest.raises(ValueError, match="scaled as 'linear'"):
        write_gguf(model, tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["pocket-llama", "pocket-qwen"])
def test_llama_cpp_draws_our_tokens(name: str) -> None:
    for package in ("gguf", "llama_cpp"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from benchmarks.peers.llama import llama_cpp

    model = str(MODELS_DIRECTORY / name)
    workload = Workload(model, problem_prompts(model, 4, 14), 24, threads=1)
    ours = InProcess(workload.model, threads=1, running=4, tokens=workload.longest)
    tokens = ours.run(requests(workload.prompts, 24)).tokens
    system = llama_cpp(workload)
    for _ in range(2):  # the second run begins with an empty cache
        theirs = system.run(24).tokens
        found = compare(
            "llama_cpp", workload.prompts, tokens, theirs,
            lambda s: reference_logits(workload.model, s),
        )  # fmt: skip
        assert found.equal_first_tokens == 1.0
