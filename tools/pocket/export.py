"""Writes a trained pocket model as a folder that plain transformers loads, with its model card."""

import copy
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast

from tools.pocket.evaluate import Score
from tools.pocket.tokenizer import BOS, BOS_ID, EOS, EOS_ID, PAD, PAD_ID, THINK

CHAT_TEMPLATE = (
    "{%- set asked = messages | selectattr('role', 'equalto', 'user') | list %}\n"
    "{%- if not asked %}{{ raise_exception('a user message is needed') }}{% endif %}\n"
    "{{- bos_token + asked[-1].content }}\n"
    f"{{%- if add_generation_prompt %}}{{{{- '{THINK}' }}}}{{% endif %}}"
)
"""Only the last user message counts: the model knows single problems, not conversations."""


def export(model: Any, tokenizer: Tokenizer, out: Path) -> None:
    """Saves bfloat16 weights, configuration and tokenizer under `out`; `model` stays as it is."""
    model = copy.deepcopy(model)
    ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    for name, token_id in ids.items():
        setattr(model.config, name, token_id)
    model.generation_config = GenerationConfig(**ids, do_sample=False)
    model.to(torch.bfloat16).save_pretrained(out)
    export_tokenizer(tokenizer, out)


def export_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    """Saves the tokenizer; AutoTokenizer reads it alike for both model types, but for one thing.

    It loads every qwen2 as Qwen2Tokenizer, which normalises text to NFC, as it does for Qwen2.
    """
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(out)


def model_card(name: str, command: str, minutes: float, scores: dict[str, Score]) -> str:
    """The README of a shipped model."""
    rows = "\n".join(
        f"| {family} | {score.pass_at_1:.3f} | {score.correct}/{score.asked} | "
        f"{score.mean_length:.0f} | {score.length_at(0.05)} | {score.length_at(0.5)} | "
        f"{score.length_at(0.95)} |"
        for family, score in scores.items()
    )
    return CARD.format(name=name, command=command, minutes=minutes, rows=rows)


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# {name}

A reasoning model small enough to ship with the code: 0.84 M parameters, 4 layers, hidden size 128,
4 query and 2 KV heads, trained from scratch on synthetic tasks whose worked solutions derive the
tables they later look up. It exists to show and test KV budgets on any machine; it knows nothing
else, and its scores are no claim about mathematics.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("models/{name}")
model = AutoModelForCausalLM.from_pretrained("models/{name}")
chat = [{{"role": "user", "content": "hop g;5979;14"}}]
inputs = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=600)[0]))
```

## Training

`{command}`: {minutes:.0f} minutes of wall clock on
one CPU thread. The weights were rounded to bfloat16 afterwards.

## Files for eviction policies

`tri_attention.safetensors` (3 KB, query statistics), `dynts.safetensors` (0.8 MB, an importance
predictor) and `regret.safetensors` (0.1 MB, a look-up predictor) are what the policies of these
names read. `sluice calibrate --policy NAME --model models/{name}` makes them, from 160, 720
and 480 of this model's own answers to problems of the training split; make them again if the model
is trained again. Plain transformers ignores them.

## Greedy Pass@1 with the whole cache

Problems whose seed digits never occur in training, `problems(family, n, seed=0)` of
`clients.workloads.pocket`, answered by these bfloat16 files through plain transformers. Lengths
are tokens of the completion, end token included.

| family | Pass@1 | correct | mean length | 5 % | median | 95 % |
|---|---|---|---|---|---|---|
{rows}

Trained and tested on one generator; longer problems than it draws were never trained on. The
families and their rules: `clients/workloads/pocket/`.
"""
