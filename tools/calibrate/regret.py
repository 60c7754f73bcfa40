"""Trains regret's predictor, which keys will be looked up, and measures where keys and values lie.

A trace is stopped at some moments. At each, an entry of age AGE or more, of the trace's own text,
is an example: its key without rotary embedding, its value, and whether from then on any query of
the KV head's group pays it more than SHARP of its attention. The model is frozen and sees whole
caches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from clients.errors import DataError
from engine.eviction.regret import UNITS
from engine.eviction.rotation import as_complex, as_vectors, turn
from tools.calibrate.subject import Attended, Subject, watched_by
from tools.calibrate.traces import Report, Trace

AGE = 12  # tokens behind the moment: what is younger, a budget protects anyway
SHARP = 0.1  # share of a query's attention that makes a look-up
MOMENTS = 8  # of a trace
MOST_EXAMPLES = 1 << 17  # of each head
QUERIES = 256  # whose attention is computed at a time
VALUE_WEIGHT = 0.5  # of a distance between values against one between keys, each in its own spread
STEPS, BATCH, RATE, DECAY = 4000, 1024, 4e-3, 1e-2
HELD_OUT = 0.1  # share of the examples, the last ones, not trained on
LEAST_EXAMPLES = 1000


@dataclass(frozen=True)
class Examples:
    """Entries at moments, the same ones in every layer and head."""

    keys: torch.Tensor  # [heads, examples, head_dim], layers and KV heads flattened, not rotated
    values: torch.Tensor  # [heads, examples, head_dim]
    needed: torch.Tensor  # [heads, examples] float32: 1 where looked up later


class TraceExamples:
    """Collects one trace's examples, layer by layer."""

    def __init__(self, subject: Subject, moments: torch.Tensor, entries: torch.Tensor) -> None:
        """`moments` [n] ascending, and `entries` [n, m] of each, both as token indices."""
        assert subject.frequencies is not None
        self._frequencies = subject.frequencies.to(subject.device)
        self._moments, self._entries = moments, entries
        self.layers: list[Examples] = []

    def add(self, attended: Attended) -> None:
        tokens = attended.keys.shape[1]
        positions = torch.arange(tokens, device=attended.keys.device)
        back = turn(-positions[:, None] * self._frequencies[attended.layer])
        keys = as_vectors(as_complex(attended.keys.float()) * back)
        chosen = self._entries.flatten()
        needed = (self._strongest(attended) > SHARP).float()
        self.layers.append(Examples(keys[:, chosen], attended.values[:, chosen].float(), needed))

    def _strongest(self, attended: Attended) -> torch.Tensor:
        """The most attention that each example gets from its moment on, [kv_heads, examples]."""
        kv_heads, tokens, _ = attended.keys.shape
        best = attended.keys.new_zeros(kv_heads, tokens, dtype=torch.float32)
        rows = []
        ends = [*self._moments[1:].tolist(), tokens]
        for moment, end, entries in reversed(
            list(zip(self._moments.tolist(), ends, self._entries, strict=True))
        ):
            for start in range(moment, end, QUERIES):
                received = _attention(attended, start, min(start + QUERIES, end))
                best = torch.maximum(best, received.view(kv_heads, -1, tokens).amax(dim=1))
            rows.append(best[:, entries])
        return torch.cat(rows[::-1], dim=1)


def _attention(attended: Attended, start: int, end: int) -> torch.Tensor:
    """Of the queries from `start` to `end`, [heads, queries, tokens] float32."""
    group = len(attended.queries) // len(attended.keys)
    keys = attended.keys.float().repeat_interleave(group, dim=0)
    logits = attended.queries[:, start:end].float() @ keys.mT * attended.scale
    if attended.visible is None:
        newer = torch.ones(logits.shape[1:], dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(newer.triu(start + 1), -torch.inf)
    elif attended.visible.dtype == torch.bool:
        logits = logits.masked_fill(~attended.visible[start:end], -torch.inf)
    else:
        logits = logits + attended.visible[start:end]
    return logits.softmax(dim=-1)


@torch.inference_mode()
def examples_of(subject: Subject, trace: Trace, count: int) -> Examples | None:
    """About `count` examples of a trace; None if it is too short to have any."""
    tokens = len(trace.ids)
    first = max(trace.prompt + AGE, tokens // 3)  # no budget bites before
    if tokens - first < MOMENTS:
        return None
    spaced = torch.linspace(first, tokens, MOMENTS + 1)[:-1]
    moments = (spaced + torch.rand(1) * (tokens - first) / MOMENTS).long()
    share = torch.rand(MOMENTS, -(-count // MOMENTS))
    entries = trace.prompt + (share * (moments - AGE - trace.prompt + 1)[:, None]).long()
    collected = TraceExamples(subject, moments, entries.to(subject.device))
    with watched_by(collected.add):
        subject.model.base_model(
            input_ids=torch.tensor([trace.ids], device=subject.device), use_cache=False
        )
    return _joined(collected.layers, dim=0)


def _joined(parts: Sequence[Examples], dim: int) -> Examples:
    fields = ("keys", "values", "needed")
    return Examples(*(torch.cat([getattr(p, f) for p in parts], dim).clone() for f in fields))


def measure_places(examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """W_x [heads, 2 head_dim, head_dim / 2] and b_x [heads, head_dim / 2] of engine regret.

    Principal components of keys and values, both divided by their spread, the root of their mean
    squared distance from the mean; values then by 1 / VALUE_WEIGHT.
    """
    both = torch.cat([examples.keys, examples.values], dim=-1).double()
    mean = both.mean(dim=1, keepdim=True)
    half = both.shape[-1] // 2
    spread = [part.square().sum(-1).mean(-1).sqrt() for part in (both - mean).split(half, dim=-1)]
    weights = torch.stack([1 / spread[0], VALUE_WEIGHT / spread[1]], dim=-1)  # [heads, 2]
    weights = weights.repeat_interleave(half, dim=-1)  # [heads, 2 head_dim]
    units = (both - mean) * weights[:, None]
    _, directions = torch.linalg.eigh(units.mT @ units)  # ascending
    weight = weights[..., None] * directions[:, :, -(half // 2) :]
    return weight.float(), -(mean @ weight).squeeze(1).float()


def train_predictor(
    examples: Examples, seed: int, report: Report
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The predictor's tensors with heads flattened, and its loss on what it did not see."""
    torch.manual_seed(seed)
    heads, count, dim = examples.keys.shape
    device = examples.keys.device
    mean, deviation = examples.keys.mean(1, keepdim=True), examples.keys.std(1, keepdim=True) + 1e-4
    inputs = (examples.keys - mean) / deviation
    first = torch.randn(heads, dim, UNITS, device=device) * dim**-0.5
    last = torch.randn(heads, UNITS, device=device) * 0.1
    zeros = (torch.zeros(heads, 1, UNITS, device=device), torch.zeros(heads, 1, device=device))
    weights = [w.requires_grad_() for w in (first, zeros[0], last, zeros[1])]

    def predict(rows: torch.Tensor) -> torch.Tensor:
        units = torch.baddbmm(weights[1], rows, weights[0]).relu()
        return (units * weights[2][:, None]).sum(dim=-1) + weights[3]

    trained = int(count * (1 - HELD_OUT))
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(STEPS):
        chosen = torch.randint(trained, (BATCH,), device=device)
        loss = cross_entropy(predict(inputs[:, chosen]), examples.needed[:, chosen])
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        report("training the predictor", step + 1, STEPS)
    first, shift, last, end = (weight.detach() for weight in weights)
    unseen, rate = examples.needed[:, trained:], examples.needed[:, :trained].mean(1, keepdim=True)
    constant = cross_entropy(rate.clamp(1e-6, 1 - 1e-6).logit().expand_as(unseen), unseen)
    facts = {
        "held_out_loss": f"{cross_entropy(predict(inputs[:, trained:]), unseen).item():.4f}",
        "constant_loss": f"{constant.item():.4f}",
    }
    first = first / deviation.mT
    tensors = {
        "need_weight": first,
        "need_bias": (shift - mean @ first).squeeze(1),
        "need_out": last,
        "need_shift": end.squeeze(1),
    }
    return tensors, facts


def calibrate_regret(
    subject: Subject, traces: Sequence[Trace], seed: int, report: Report
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of engine regret's `artifact_shapes`, float32, and facts for the metadata.

    Raises:
        DataError: the model has no rotary positions that can be taken off, or traces are too short.
    """
    if subject.frequencies is None:
        raise DataError(
            f"regret needs rotary positions over whole heads, which {subject.name} lacks"
        )
    torch.manual_seed(seed)
    parts = []
    # In any order but theirs, by length of the prompt: the last ones are not trained on.
    order = torch.randperm(len(traces)).tolist()
    for done, trace in enumerate((traces[i] for i in order), 1):
        part = examples_of(subject, trace, min(MOST_EXAMPLES // len(traces), 320))
        parts += [part] if part is not None else []
        report("measuring what is looked up", done, len(traces))
    count = sum(part.needed.shape[1] for part in parts)
    if count < LEAST_EXAMPLES:
        raise DataError(
            f"{len(parts)} of {len(traces)} traces are long enough and give {count} examples; "
            f"regret needs {LEAST_EXAMPLES}: give more prompts, or more --max-tokens"
        )
    examples = _joined(parts, dim=1)
    weight, bias = measure_places(examples)
    predictor, facts = train_predictor(examples, seed, report)
    heads = (subject.shape.layers, subject.shape.kv_heads)
    tensors = {"place_weight": weight, "place_bias": bias, **predictor}
    facts = {"examples": str(count), "traces_used": str(len(parts)), **facts}
    return {name: tensor.unflatten(0, heads) for name, tensor in tensors.items()}, facts
