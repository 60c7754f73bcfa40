"""Each policy, end to end on a pocket model, against a dense decoder that ranks by its formula.

The engine decodes one problem under every policy at once: paged, in float32, by kernels. The other
side decodes token by token over plain lists, and ranks with the loops of the policy's own test in
float64. After every round both hold the same tokens in every layer and head, and they draw the same
answer.
"""

from dataclasses import dataclass, replace

import pytest
import torch

from clients.workloads.pocket import FAMILIES
from engine.config import EngineConfig
from engine.eviction import POLICIES
from scheduler.budget import Budget
from tests.engine.dense_oracle import DenseDecoder
from tests.engine.faithful import pocket
from tests.engine.faithful.formulas import Formula, formulas
from tests.engine.faithful.lockstep import Lockstep
from tests.engine.harness import run

RING = EngineConfig().query_ring


@dataclass(frozen=True)
class Engine:
    """What the engine did under each policy."""

    kept: dict[str, list[torch.Tensor]]  # of each round [layers, kv_heads, kept] positions
    tokens: dict[str, list[int]]  # drawn
    whole: list[int]  # drawn without a budget


@pytest.fixture(scope="module")
def engine() -> Engine:
    """All policies that have a formula, in one batch."""
    runner = pocket.PocketRunner()
    requests = {policy: pocket.request(policy) for policy in _formulas("window")}
    whole = replace(pocket.request("window"), key=-1, budget=None)
    outcomes = run(runner, [*requests.values(), whole], stagger=2)
    return Engine(
        {policy: runner.kept[request.key] for policy, request in requests.items()},
        {policy: outcomes[request.key, 0].tokens for policy, request in requests.items()},
        outcomes[whole.key, 0].tokens,
    )


def _budget(policy: str) -> Budget:
    budget = pocket.request(policy).budget
    assert budget is not None
    return budget


def _formulas(policy: str) -> dict[str, Formula]:
    return formulas(_budget(policy))


def _decode(policy: str, ranking: Lockstep) -> DenseDecoder:
    return DenseDecoder(
        pocket.dense_model,
        pocket.request(policy),
        RING,
        ranking,
        pocket.frequencies(),
        pocket.artifact(policy),
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_same_tokens_kept_and_same_answer(policy: str, engine: Engine) -> None:
    if policy not in engine.kept:
        pytest.fail(f"add the formula of {policy} to tests/engine/faithful/formulas.py")
    kept = engine.kept[policy]
    ranking = Lockstep(_formulas(policy)[policy], kept)
    oracle = _decode(policy, ranking)
    assert oracle.decode() == engine.tokens[policy]
    assert oracle.rounds == len(kept) >= 3
    assert ranking.ties <= 0.02 * oracle.rounds * kept[0][..., 0].numel(), "ties are rare"


def test_policies_keep_different_tokens(engine: Engine) -> None:
    first = {tuple(rounds[0].flatten().tolist()) for rounds in engine.kept.values()}
    assert len(first) == len(engine.kept)


@pytest.mark.parametrize(("policy", "error"), [("snapkv", 1e-3), ("r_kv", 1e-3), ("h2o", 1e-3)])
def test_a_formula_a_little_off_is_caught(policy: str, error: float, engine: Engine) -> None:
    right = _formulas(policy)[policy]

    def formula(*where: object) -> list[float]:
        scores = right(*where)  # type: ignore[arg-type]
        return [score * (1 + error * (slot % 7)) for slot, score in enumerate(scores)]

    with pytest.raises(AssertionError, match=r"layer \d, head \d: dropped"):
        _decode(policy, Lockstep(formula, engine.kept[policy])).decode()


def test_the_whole_cache_solves_the_problem(engine: Engine) -> None:
    """So there is an answer to lose, and some policies do."""
    instance = FAMILIES["hop"].solve(pocket.PROBLEM)
    assert instance is not None
    boxed = f"boxed{{{instance.answer}}}"
    assert boxed in pocket.tokenizer().decode(engine.whole)
    solved = [boxed in pocket.tokenizer().decode(tokens) for tokens in engine.tokens.values()]
    assert any(solved)
    assert not all(solved)
