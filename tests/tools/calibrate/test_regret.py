"""Regret's examples against eager attention, its places, and what its predictor learns."""

import pytest
import torch

from clients.errors import DataError
from engine.eviction.regret import Regret, look_up_probability
from tests.engine.models import tiny_model
from tests.tools.calibrate.subjects import pocket, silent, solved, tiny
from tools.calibrate.regret import (
    AGE,
    SHARP,
    VALUE_WEIGHT,
    Examples,
    calibrate_regret,
    examples_of,
    measure_places,
    train_predictor,
)
from tools.calibrate.traces import Trace


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_examples_are_what_is_attended_to_after_the_moment(architecture: str) -> None:
    """Every example is one of the trace's keys without rotation, and its label can be told from
    eager attention at some moment that is old enough."""
    ids = torch.randperm(60, generator=torch.Generator().manual_seed(2))[:40] + 3  # all different
    trace = Trace(tuple(ids.tolist()), 9)
    torch.manual_seed(1)
    examples = examples_of(tiny(architecture), trace, 64)
    assert examples is not None
    model = tiny_model(architecture)
    kept: dict[int, torch.Tensor] = {}
    for layer, block in enumerate(model.base_model.layers):
        attention = block.self_attn
        source = getattr(attention, "k_norm", attention.k_proj)
        source.register_forward_hook(lambda _m, _i, out, layer=layer: kept.update({layer: out}))
    output = model(torch.tensor([trace.ids]), output_attentions=True)
    attention = torch.stack(output.attentions)[:, 0]  # [layers, heads, tokens, tokens]
    layers, heads, tokens, _ = attention.shape
    first = max(trace.prompt + AGE, tokens // 3)
    for layer in range(layers):
        keys = kept[layer][0]
        if keys.ndim == 2:  # of a projection: [tokens, kv_heads * head_dim]
            keys = keys.view(tokens, 2, -1).transpose(0, 1)
        for kv_head in range(2):
            group = slice(kv_head * heads // 2, (kv_head + 1) * heads // 2)
            received = attention[layer, group].amax(dim=0)  # [asking, tokens]
            row = layer * 2 + kv_head
            for key, label in zip(examples.keys[row], examples.needed[row], strict=True):
                [slot, *_] = ((keys[kv_head] - key).abs().amax(dim=-1) < 1e-4).nonzero().flatten()
                entry = int(slot)
                assert trace.prompt <= entry
                possible = {
                    float(received[moment:, entry].max() > SHARP)
                    for moment in range(max(first, entry + AGE), tokens)
                }
                assert float(label) in possible


def _made_up(heads: int = 2, count: int = 4000) -> Examples:
    """Keys of which the first number says whether they are needed."""
    draw = torch.Generator().manual_seed(4)
    keys = torch.randn(heads, count, 8, generator=draw) * torch.tensor([3.0, *[1.0] * 7]) + 2
    values = torch.randn(heads, count, 8, generator=draw) * 5
    return Examples(keys, values, (keys[..., 0] > 4).float())


def test_places_keep_most_of_the_distance_in_half_the_numbers() -> None:
    examples = _made_up()
    weight, bias = measure_places(examples)
    assert weight.shape == (2, 16, 4)
    both = torch.cat([examples.keys, examples.values], dim=-1)
    places = both @ weight + bias[:, None]
    torch.testing.assert_close(places.mean(dim=1), torch.zeros(2, 4), atol=1e-4, rtol=0)
    spread = [
        (part - part.mean(1, keepdim=True)).square().sum(-1).mean(-1).sqrt()
        for part in (examples.keys, examples.values)
    ]
    units = torch.cat(
        [
            (examples.keys - examples.keys.mean(1, keepdim=True)) / spread[0][:, None, None],
            (examples.values - examples.values.mean(1, keepdim=True))
            * (VALUE_WEIGHT / spread[1][:, None, None]),
        ],
        dim=-1,
    )
    for head in range(2):
        wanted = torch.linalg.svdvals(units[head].double())[:4].square().sum()
        assert places[head].double().square().sum() == pytest.approx(float(wanted), rel=1e-3)


def test_the_predictor_learns_what_it_was_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.calibrate.regret.STEPS", 300)
    examples = _made_up()
    tensors, facts = train_predictor(examples, 1, silent)
    assert float(facts["held_out_loss"]) < 0.3 * float(facts["constant_loss"])
    by_head = {name: tensor.unflatten(0, (1, 2)) for name, tensor in tensors.items()}
    predicted = look_up_probability(examples.keys[None, None], by_head)[0, 0]
    right = (predicted > 0.5) == (examples.needed > 0.5)
    assert right.float().mean() > 0.95


def test_the_file_fits_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.calibrate.regret.STEPS", 100)
    tensors, facts = calibrate_regret(pocket(), solved(20), 0, silent)
    assert Regret.artifact_complaint(tensors, pocket().shape) == ""
    assert int(facts["examples"]) >= 1000
    assert facts["traces_used"] == "20"
    assert float(facts["held_out_loss"]) < float(facts["constant_loss"])


def test_traces_that_are_too_short_are_not_enough() -> None:
    cut = [Trace(trace.ids[: trace.prompt + 5], trace.prompt) for trace in solved(4)]
    with pytest.raises(DataError, match=r"0 of 4 traces.*--max-tokens"):
        calibrate_regret(pocket(), cut, 0, silent)
