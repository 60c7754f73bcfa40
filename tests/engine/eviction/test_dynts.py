import math
from dataclasses import replace

import pytest
import torch

from engine.eviction.base import KEPT_FIRST, CacheView
from engine.eviction.dynts import DynTS, predictor_shapes
from engine.kv_pool import KvShape
from tests.engine.eviction.artifacts import random_artifacts
from tests.engine.eviction.caches import random_view, score_by_loops

SHAPE = KvShape(layers=2, heads=6, kv_heads=3, head_dim=8, hidden_size=5, dtype=torch.float32)


def formula(view: CacheView, sequence: int, layer: int, kv_head: int) -> list[float]:
    """What was predicted when the token was computed; a question token is kept before all."""
    assert view.importance is not None
    positions = view.positions[sequence, layer, kv_head].tolist()
    predicted = view.importance[sequence, layer, kv_head].tolist()
    asked = int(view.prompt_tokens[sequence])
    return [
        KEPT_FIRST if position < asked else importance
        for position, importance in zip(positions, predicted, strict=True)
    ]


def _predicted(artifact: dict[str, torch.Tensor], hidden: list[float]) -> float:
    """Softplus of a product, three times."""
    for name in ("first", "second", "last"):
        rows = artifact[name].double().tolist()
        sums = [sum(w * x for w, x in zip(row, hidden, strict=True)) for row in rows]
        hidden = [math.log1p(math.exp(x)) for x in sums]
    (importance,) = hidden
    return importance


def test_follows_the_formula() -> None:
    view = random_view()
    expected = score_by_loops(view, formula)
    assert (expected == KEPT_FIRST).any()
    assert (expected < 1).any()
    assert torch.equal(DynTS().score(view), expected.float())


def test_the_predictor_is_three_products_with_softplus() -> None:
    artifact = random_artifacts(SHAPE)["dynts"]
    hidden = torch.randn(20, 5, generator=torch.Generator().manual_seed(1)) * 3
    expected = [_predicted(artifact, row) for row in hidden.double().tolist()]
    actual = DynTS.predict(artifact, hidden)
    torch.testing.assert_close(actual.double(), torch.tensor(expected).double())


def test_the_predictor_has_the_published_sizes_where_they_were_published() -> None:
    for hidden in (4096, 3584):  # R1-Distill-Llama-8B, R1-Distill-Qwen-7B
        assert list(predictor_shapes(hidden).values()) == [(8192, hidden), (2048, 8192), (1, 2048)]
    assert list(predictor_shapes(128).values()) == [(1024, 128), (256, 1024), (1, 256)]


def test_half_precision_does_not_make_equals() -> None:
    artifact = {k: v.bfloat16() for k, v in random_artifacts(SHAPE)["dynts"].items()}
    hidden = torch.randn(200, 5, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert DynTS.predict(artifact, hidden).unique().numel() > 190


def test_tokens_with_equal_importance_are_kept_newest_first() -> None:
    view = random_view()
    assert view.importance is not None
    answer = torch.arange(24) >= 12
    view = replace(view, importance=view.importance.masked_fill(answer, KEPT_FIRST))
    none = torch.zeros(2, dtype=torch.int64)
    kept = DynTS().select(view, 10, pinned=none, recent=none)
    assert (kept == torch.arange(14, 24)).all(), "the answer is as dear as the question, and newer"


@pytest.mark.parametrize("name", ["first", "second", "last"])
def test_a_file_of_another_model_is_told(name: str) -> None:
    fits = random_artifacts(SHAPE)["dynts"]
    assert DynTS.artifact_complaint(fits, SHAPE) == ""
    wanted = str(predictor_shapes(5)[name])
    other = {**fits, name: torch.zeros(3, 3)}
    assert f"its {name} is (3, 3)" in DynTS.artifact_complaint(other, SHAPE)
    assert wanted in DynTS.artifact_complaint(other, SHAPE)
    del other[name]
    assert f"its {name} is missing" in DynTS.artifact_complaint(other, SHAPE)


def test_a_file_must_say_what_ends_thinking() -> None:
    fits = random_artifacts(SHAPE)["dynts"]
    del fits["end_ids"]
    assert DynTS.artifact_complaint(fits, SHAPE) == "its end_ids are missing"
