"""Text that the model itself generates, for what is measured or learned on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from clients.errors import DataError
from clients.workloads.pocket import FAMILIES, problems
from tools.calibrate.subject import Subject
from tools.pocket.architecture import MODELS as POCKET_MODELS

BATCH = 64
END_THINK = "</think>"

Report = Callable[[str, int, int], None]
"""(what is being done, how far, of how many)"""


@dataclass(frozen=True)
class Trace:
    """One prompt and what the model wrote; its end token, which is never read, left out."""

    ids: tuple[int, ...]
    prompt: int  # leading tokens that are the prompt

    def answer(self, end_id: int) -> int | None:
        """Index of the first token of the answer; None if thinking did not end, or nothing came."""
        if end_id not in self.ids[self.prompt :]:
            return None
        first = self.ids.index(end_id, self.prompt) + 1
        return first if first < len(self.ids) else None


def prompts_for(model: str, file: Path | None, count: int, seed: int) -> list[str]:
    """`count` prompts: the first of a JSONL file, field `prompt`; or a pocket model's own tasks.

    The pocket tasks are of the split that the models were trained on, which shares no problem with
    the one that is evaluated.

    Raises:
        DataError: the file cannot be used, or there is none and the model is no pocket model.
    """
    if file is not None:
        return _read(file)[:count]
    if Path(model).name not in POCKET_MODELS:
        raise DataError(
            f"only {' and '.join(POCKET_MODELS)} come with prompts: for {model} give --prompts "
            "FILE.jsonl, a field prompt in each line, and none of what you evaluate on"
        )
    each = -(-count // len(FAMILIES))
    found = [problems(task, each, seed, split="train") for task in FAMILIES]
    # Round robin: any count, and any first part of the prompts, has all families.
    return [row[i].prompt for i in range(each) for row in found][:count]


def _read(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        rows = [(number, msgspec.json.decode(line)) for number, line in enumerate(lines, 1) if line]
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise DataError(f"cannot read the prompts {file}: {error}") from error
    for number, row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise DataError(f"{file}:{number}: want an object with a text in prompt")
    if not rows:
        raise DataError(f"{file} holds no prompts")
    return [row["prompt"] for _, row in rows]


@torch.inference_mode()
def generate(
    subject: Subject, prompts: Sequence[str], max_tokens: int, seed: int, report: Report
) -> list[Trace]:
    """The model's answers, drawn as its generation_config says (the pocket models': greedily)."""
    torch.manual_seed(seed)
    encoded = sorted((_encode(subject.tokenizer, prompt) for prompt in prompts), key=len)
    traces: list[Trace] = []
    for start in range(0, len(encoded), BATCH):
        traces += _generate(subject, encoded[start : start + BATCH], max_tokens)
        report("generating traces", len(traces), len(encoded))
    return traces


def _encode(tokenizer: Any, prompt: str) -> list[int]:
    if not tokenizer.chat_template:
        return list(tokenizer(prompt).input_ids)
    chat = [{"role": "user", "content": prompt}]
    return list(
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True).input_ids
    )


def _generate(subject: Subject, prompts: list[list[int]], max_tokens: int) -> list[Trace]:
    model, width = subject.model, max(map(len, prompts))
    ends = model.generation_config.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}
    padding = subject.tokenizer.pad_token_id
    padding = next(iter(ends)) if padding is None else padding
    rows = torch.tensor([[padding] * (width - len(p)) + p for p in prompts], device=subject.device)
    mask = torch.tensor(
        [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=subject.device
    )
    limit = min(max_tokens, model.config.get_text_config().max_position_embeddings - width)
    output = model.generate(
        input_ids=rows, attention_mask=mask, max_new_tokens=limit, pad_token_id=padding
    )
    return [
        Trace((*prompt, *_until(row[width:].tolist(), ends)), len(prompt))
        for prompt, row in zip(prompts, output, strict=True)
    ]


def _until(ids: list[int], ends: set[int]) -> list[int]:
    stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[:stop]
