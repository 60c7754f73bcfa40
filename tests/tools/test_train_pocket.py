"""The training tools: tokenizer, text, a run of a few steps, export."""

import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from clients.workloads.pocket import FAMILIES, draw, problems, split_of
from tools.pocket.architecture import MODELS, build_model
from tools.pocket.data import (
    BATCH_TOKENS,
    IGNORED,
    ROUND,
    Curriculum,
    draw_round,
    labels_of,
    render,
)
from tools.pocket.drills import DRILLS
from tools.pocket.evaluate import Score, boxed, forecast
from tools.pocket.export import export, model_card
from tools.pocket.tokenizer import (
    BOS,
    BOS_ID,
    EOS,
    EOS_ID,
    PAD,
    PAD_ID,
    THINK,
    THINK_ID,
    VOCAB_SIZE,
    build_tokenizer,
)
from tools.pocket.training import Settings, Trainer

TOKENIZER = build_tokenizer()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of a fixed order: two runs of a seed agree to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exported")
    for name in MODELS:
        export(build_model(name, seed=1), TOKENIZER, root / name)
    return {name: root / name for name in MODELS}


@given(st.text())
@settings(deadline=None, max_examples=100)
def test_any_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_a_byte_is_its_own_id() -> None:
    assert TOKENIZER.encode("é~").ids == list("é~".encode())
    assert TOKENIZER.get_vocab_size() <= VOCAB_SIZE
    named = {BOS: BOS_ID, EOS: EOS_ID, PAD: PAD_ID, THINK: THINK_ID}
    assert named == {token: TOKENIZER.token_to_id(token) for token in named}


def test_keys_and_markers_are_single_tokens() -> None:
    for text in ("f8>", "07>", "j>", "<think>", "</think>", "\\boxed{"):
        assert len(TOKENIZER.encode(text).ids) == 1
    assert TOKENIZER.decode(TOKENIZER.encode("</think>").ids, skip_special_tokens=True)


@pytest.mark.parametrize("task", list(FAMILIES))
def test_every_key_a_family_writes_is_one_token(task: str) -> None:
    rng = random.Random(3)
    for _ in range(200):
        trace = draw(FAMILIES[task], rng, Curriculum().largest, "train").trace
        assert ord(">") not in TOKENIZER.encode(trace).ids


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_type_loads_the_same_tokenizer(name: str, exported: dict[str, Path]) -> None:
    loaded = AutoTokenizer.from_pretrained(exported[name])
    rng = random.Random(1)
    texts = [unicodedata.normalize("NFD", "Ünïcödé don't"), "a\u0301\u212b </s>f3>\r\n\t  "]
    texts += [draw(family, rng, 0.3, "eval").completion for family in FAMILIES.values()]
    texts += ["".join(map(chr, rng.choices(range(1, 0xD7FF), k=40))) for _ in range(50)]
    for text in texts:
        if name == "pocket-qwen":  # Qwen2Tokenizer normalises
            text = unicodedata.normalize("NFC", text)
        ids = loaded.encode(text)
        assert ids == TOKENIZER.encode(text).ids
        assert loaded.decode(ids) == text


@pytest.mark.parametrize("name", list(MODELS))
def test_the_chat_template_asks_as_training_did(name: str, exported: dict[str, Path]) -> None:
    loaded = AutoTokenizer.from_pretrained(exported[name])
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "hop g;5979;4"},
    ]
    text = loaded.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == "<s>hop g;5979;4<think>"
    assert render("hop g;5979;4", "").startswith(text)
    with pytest.raises(Exception, match="a user message is needed"):
        loaded.apply_chat_template(chat[:1], tokenize=False)


@pytest.mark.parametrize("name", list(MODELS))
def test_an_export_computes_what_was_trained(name: str, exported: dict[str, Path]) -> None:
    trained = build_model(name, seed=1)
    for parameter in trained.parameters():
        parameter.data = parameter.data.bfloat16().float()
    loaded = AutoModelForCausalLM.from_pretrained(exported[name], dtype=torch.float32)
    tokens = torch.randint(0, VOCAB_SIZE, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = (trained(tokens).logits - loaded(tokens).logits).abs().max()
    assert type(loaded) is MODELS[name][1]
    assert difference < 1e-4


def test_a_round_is_whole_and_repeatable() -> None:
    first = draw_round(TOKENIZER, 7, 3, 0.6, Curriculum())
    second = draw_round(TOKENIZER, 7, 3, 0.6, Curriculum())
    assert len(first) == ROUND
    assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))
    assert all(batch.numel() <= BATCH_TOKENS and batch.shape[1] % 32 == 0 for batch in first)
    assert sum(batch.numel() for batch in first) > 0.85 * ROUND * BATCH_TOKENS


def test_training_text_holds_no_problem_of_the_other_splits() -> None:
    texts = [
        TOKENIZER.decode(row.tolist(), skip_special_tokens=True)
        for batch in draw_round(TOKENIZER, 7, 3, 0.9, Curriculum())
        for row in batch
    ]
    prompts = [text.split(THINK)[0] for text in texts]
    asked = [prompt.split(" ") for prompt in prompts if prompt.split(" ")[0] in FAMILIES]
    digits = [next(part for part in rest.split(";") if len(part) == 4) for _, rest in asked]
    owners = {split_of(task, seed) for (task, _), seed in zip(asked, digits, strict=True)}
    assert len(asked) > 100
    assert owners == {"train"}


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_the_curriculum_always_practises_everything(progress: float) -> None:
    shares = Curriculum().shares(progress)
    assert set(shares) == {*DRILLS, *FAMILIES}
    assert all(share > 0 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1.0)


def test_short_problems_stay_in_the_mix_and_sizes_grow() -> None:
    rng = random.Random(0)
    early, late = ([Curriculum().size(rng, at) for _ in range(500)] for at in (0.0, 1.0))
    assert max(early) < 0.2
    assert min(late) < 0.25
    assert max(late) > 1.0


def test_labels_are_the_completion_and_nothing_else() -> None:
    ids = TOKENIZER.encode(render("p", "xy")).ids
    batch = torch.tensor([[*ids, PAD_ID, PAD_ID]])
    wanted = [*TOKENIZER.encode("xy</s>").ids]
    assert labels_of(batch).tolist() == [[IGNORED, IGNORED, *wanted, IGNORED, IGNORED, IGNORED]]


def train(steps: int, losses: list[float], name: str = "pocket-llama") -> Trainer:
    settings_ = Settings(seed=1, steps=steps, warmup=2)
    trainer = Trainer(build_model(name, seed=1), TOKENIZER, settings_)
    trainer.run(lambda _, loss: losses.append(loss))
    return trainer


def test_a_few_steps_lower_the_loss_and_repeat_to_the_bit() -> None:
    first: list[float] = []
    second: list[float] = []
    trained, again = train(4, first), train(4, second)
    assert first[-1] < 0.9 * first[0]
    assert first == second
    pairs = zip(trained.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    losses: list[float] = []

    class Interrupted(Exception):
        pass

    def stop(trainer: Trainer, loss: float) -> None:
        if trainer.step == 2:
            trainer.save(tmp_path / "run.pt")
            raise Interrupted

    settings_ = Settings(seed=1, steps=4, warmup=2)
    broken = Trainer(build_model("pocket-qwen", 1), TOKENIZER, settings_)
    with pytest.raises(Interrupted):
        broken.run(stop)
    resumed = Trainer(build_model("pocket-qwen", 2), TOKENIZER, settings_)
    resumed.load(tmp_path / "run.pt")
    resumed.run(lambda _, loss: losses.append(loss))
    whole: list[float] = []
    train(4, whole, "pocket-qwen")
    assert losses == whole[2:]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    model = build_model("pocket-llama", 1)
    Trainer(model, TOKENIZER, Settings(seed=1, steps=4)).save(tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"belongs to seed and steps \(1, 4\)"):
        Trainer(model, TOKENIZER, Settings(seed=2, steps=4)).load(tmp_path / "run.pt")


def test_the_rate_warms_up_and_ends_at_its_floor() -> None:
    schedule = Settings(seed=1, steps=1000)
    assert schedule.rate(0) == pytest.approx(0.01)
    assert max(map(schedule.rate, range(1000))) == pytest.approx(schedule.rate(99), rel=0.01)
    assert schedule.rate(1000) == pytest.approx(0.03)


class Perfect:
    """Predicts every next token of what it is shown, and errs where told to."""

    def __init__(self, wrong_rows: int) -> None:
        self.wrong_rows = wrong_rows

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        logits = torch.nn.functional.one_hot(torch.roll(input_ids, -1, 1), VOCAB_SIZE).float()
        logits[: self.wrong_rows, 30:] = 0
        self.wrong_rows = 0
        self.logits = logits
        return self


@pytest.mark.parametrize(("wrong", "expected"), [(0, 1.0), (2, 0.75)])
def test_the_forecast_counts_flawless_solutions(wrong: int, expected: float) -> None:
    assert forecast(Perfect(wrong), TOKENIZER, problems("memo", 8, 0)) == expected


@pytest.mark.parametrize(
    ("text", "answer"),
    [("1</think>\\boxed{538}", "538"), ("538", None), ("\\boxed{1}\\boxed{2", "2"), ("", None)],
)
def test_the_last_box_is_read(text: str, answer: str | None) -> None:
    assert boxed(text) == answer


def test_the_card_states_the_command_and_the_figures() -> None:
    score = Score(correct=9, asked=10, lengths=tuple(range(100, 110)))
    card = model_card("pocket-llama", "python -m tools.train_pocket", 21.4, {"hop": score})
    assert "`python -m tools.train_pocket`: 21 minutes" in card
    assert "| hop | 0.900 | 9/10 | 104 | 100 | 105 | 109 |" in card
    assert BOS not in card
