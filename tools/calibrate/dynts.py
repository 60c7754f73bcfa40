"""Trains DynTS' importance predictor: from a token's last hidden state, what the answer pays to it.

The model is frozen. Label of thinking token j, up to and including `</think>`:
    I_j = mean over layers, heads and answer positions i of softmax(q_i · K / sqrt(d))_j
in units of the mean label, so that one learning rate suits traces of any length. The published
recipe is 15 epochs of AdamW at 5e-4 with batches of 256 traces on four GPUs. Here batches are of
256 tokens and the rate falls to zero along a cosine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import mse_loss

from clients.errors import DataError
from engine.eviction.dynts import DynTS, predictor_shapes
from tools.calibrate.subject import Attended, Subject, watched_by
from tools.calibrate.traces import END_THINK, Report, Trace

EPOCHS = 12
BATCH_TOKENS = 256
RATE = 5e-4
HELD_OUT = 8  # every eighth trace is not trained on
MOST_TOKENS = 1 << 18  # of hidden states held in memory
LEAST_TRACES = 16


@dataclass(frozen=True)
class Examples:
    """Thinking tokens with what the answer paid to them."""

    hidden: torch.Tensor  # [tokens, hidden size], the model's type
    labels: torch.Tensor  # [tokens] float32


class AnswerAttention:
    """Attention that thinking tokens receive from the answer, summed layer by layer."""

    def __init__(self, answer: int, tokens: int, device: torch.device) -> None:
        self._answer = answer
        self._received = torch.zeros(tokens, device=device)
        self._layers = 0

    def add(self, attended: Attended) -> None:
        asking = attended.queries[:, self._answer :].float()  # [heads, answer, head_dim]
        group = len(attended.queries) // len(attended.keys)
        keys = attended.keys.float().repeat_interleave(group, dim=0)
        logits = asking @ keys.mT * attended.scale  # [heads, answer, tokens]
        if attended.visible is None:
            newer = torch.ones(logits.shape[1:], dtype=torch.bool, device=logits.device)
            logits = logits.masked_fill(newer.triu(self._answer + 1), -torch.inf)
        elif attended.visible.dtype == torch.bool:
            logits = logits.masked_fill(~attended.visible[self._answer :], -torch.inf)
        else:
            logits = logits + attended.visible[self._answer :]
        self._received += logits.softmax(dim=-1).mean(dim=(0, 1))
        self._layers += 1

    def mean(self) -> torch.Tensor:
        """[tokens] float32, over layers, heads and answer positions."""
        return self._received / self._layers


@torch.inference_mode()
def examples_of(subject: Subject, trace: Trace, answer: int) -> Examples:
    """The thinking tokens of a trace whose answer begins at token `answer`."""
    received = AnswerAttention(answer, len(trace.ids), subject.device)
    with watched_by(received.add):
        output = subject.model.base_model(
            input_ids=torch.tensor([trace.ids], device=subject.device), use_cache=False
        )
    thinking = slice(trace.prompt, answer)
    return Examples(output.last_hidden_state[0, thinking], received.mean()[thinking])


def train_predictor(
    training: Examples, held_out: Examples, seed: int, report: Report
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The predictor's weights, float32, and its squared error on tokens it did not see."""
    torch.manual_seed(seed)
    device, unit = training.hidden.device, training.labels.mean()
    weights = {}
    for name, size in predictor_shapes(training.hidden.shape[1]).items():
        bound = size[1] ** -0.5
        weights[name] = torch.empty(size, device=device).uniform_(-bound, bound).requires_grad_()
    batches = -(-len(training.labels) // BATCH_TOKENS)
    optimiser = torch.optim.AdamW(weights.values(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS * batches)
    for step in range(EPOCHS * batches):
        if step % batches == 0:
            order = torch.randperm(len(training.labels), device=device).split(BATCH_TOKENS)
        chosen = order[step % batches]
        predicted = DynTS.predict(weights, training.hidden[chosen].float())
        loss = mse_loss(predicted, training.labels[chosen] / unit)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        report("training the predictor", step + 1, EPOCHS * batches)
    weights = {name: weight.detach() for name, weight in weights.items()}
    wanted = held_out.labels / unit
    error = mse_loss(DynTS.predict(weights, held_out.hidden.float()), wanted)
    constant = mse_loss(torch.ones_like(wanted), wanted)
    facts = {
        "tokens": str(len(training.labels)),
        "held_out_tokens": str(len(held_out.labels)),
        "held_out_error": f"{error.item():.4f}",
        "constant_error": f"{constant.item():.4f}",
    }
    return weights, facts


def calibrate_dynts(
    subject: Subject, traces: Sequence[Trace], seed: int, report: Report
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights in float16 and end_ids int64, and facts for the file's metadata.

    Raises:
        DataError: the tokenizer has no single `</think>`, or too few traces came to an answer.
    """
    end_ids = subject.tokenizer(END_THINK, add_special_tokens=False).input_ids
    if len(end_ids) != 1:
        raise DataError(f"{END_THINK} is {len(end_ids)} tokens for {subject.name}; dynts needs one")
    answered = [(t, answer) for t in traces if (answer := t.answer(end_ids[0])) is not None]
    if len(answered) < LEAST_TRACES:
        raise DataError(
            f"{len(answered)} of {len(traces)} traces came to an answer; dynts needs "
            f"{LEAST_TRACES}: give more prompts, or more --max-tokens"
        )
    parts: tuple[list[Examples], list[Examples]] = ([], [])
    share = MOST_TOKENS // len(answered)
    for done, (trace, answer) in enumerate(answered):
        examples = examples_of(subject, trace, answer)
        some = torch.linspace(0, len(examples.labels) - 1, min(share, len(examples.labels)))
        chosen = some.round().long().to(subject.device)
        held_out = done % HELD_OUT == 0
        parts[held_out].append(Examples(examples.hidden[chosen], examples.labels[chosen]))
        report("measuring what answers attend to", done + 1, len(answered))
    weights, facts = train_predictor(_joined(parts[0]), _joined(parts[1]), seed, report)
    tensors = {name: weight.half() for name, weight in weights.items()}
    tensors["end_ids"] = torch.tensor(end_ids)
    return tensors, {**facts, "answered": f"{len(answered)} of {len(traces)}"}


def _joined(parts: Sequence[Examples]) -> Examples:
    hidden = torch.cat([part.hidden for part in parts])
    return Examples(hidden.clone(), torch.cat([part.labels for part in parts]).clone())
