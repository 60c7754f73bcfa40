"""DynTS' labels against eager attention, and what its predictor learns."""

import pytest
import torch

from clients.errors import DataError
from engine.eviction.dynts import DynTS
from tests.engine.models import tiny_model
from tests.tools.calibrate.subjects import pocket, random_traces, silent, solved, tiny
from tools.calibrate.dynts import Examples, calibrate_dynts, examples_of, train_predictor
from tools.calibrate.traces import Trace


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_labels_are_the_attention_that_answers_pay(architecture: str) -> None:
    """Gemma's sliding layers pay nothing beyond their window."""
    trace, answer = random_traces(1)[0], 22
    examples = examples_of(tiny(architecture), trace, answer)
    model = tiny_model(architecture)
    output = model(torch.tensor([trace.ids]), output_attentions=True, output_hidden_states=True)
    attention = torch.stack(output.attentions)[:, 0].double()  # [layers, heads, tokens, tokens]
    layers, heads, tokens, _ = attention.shape
    expected = torch.zeros(tokens, dtype=torch.float64)
    for layer in range(layers):
        for head in range(heads):
            for asking in range(answer, tokens):
                expected += attention[layer, head, asking] / layers / heads / (tokens - answer)
    torch.testing.assert_close(examples.labels.double(), expected[trace.prompt : answer])
    hidden = output.hidden_states[-1][0, trace.prompt : answer]
    torch.testing.assert_close(examples.hidden, hidden, atol=1e-5, rtol=1e-4)


def _examples(traces: list[Trace]) -> Examples:
    end = pocket().tokenizer.convert_tokens_to_ids("</think>")
    parts = []
    for trace in traces:
        answer = trace.answer(end)
        assert answer is not None
        parts.append(examples_of(pocket(), trace, answer))
    hidden = torch.cat([part.hidden for part in parts]).clone()
    return Examples(hidden, torch.cat([part.labels for part in parts]).clone())


def test_the_predictor_learns_what_it_was_not_shown() -> None:
    traces = solved(40)
    training, held_out = _examples(traces[:30]), _examples(traces[30:])
    weights, facts = train_predictor(training, held_out, 1, silent)
    error, constant = float(facts["held_out_error"]), float(facts["constant_error"])
    assert error < 0.9 * constant
    unit = training.labels.mean()
    predicted = DynTS.predict(weights, held_out.hidden)
    measured = (predicted - held_out.labels / unit).square().mean()
    assert error == pytest.approx(measured.item(), abs=1e-3)
    assert constant == pytest.approx((1 - held_out.labels / unit).square().mean().item(), abs=1e-3)
    again, _ = train_predictor(training, held_out, 1, silent)
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_the_file_fits_the_model() -> None:
    tensors, facts = calibrate_dynts(pocket(), solved(20), 0, silent)
    assert DynTS.artifact_complaint(tensors, pocket().shape) == ""
    assert tensors["first"].dtype == torch.float16
    assert tensors["end_ids"].tolist() == [pocket().tokenizer.convert_tokens_to_ids("</think>")]
    assert facts["answered"] == "20 of 20"


def test_traces_that_never_answer_are_not_enough() -> None:
    cut = [Trace(trace.ids[:60], trace.prompt) for trace in solved(20)]
    with pytest.raises(DataError, match=r"0 of 20 traces came to an answer.*--max-tokens"):
        calibrate_dynts(pocket(), cut, 0, silent)


def test_where_an_answer_begins() -> None:
    end, other = 9, 1
    assert Trace((9, 9, other, end, other, end, other), 2).answer(end) == 4
    assert Trace((9, other, other), 1).answer(end) is None
    assert Trace((other, other, end), 1).answer(end) is None, "nothing came"
