"""Results in the format of lm-evaluation-harness: its own code reads them."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clients import statistics
from clients.environment import environment
from clients.records import Record
from clients.report.files import RESULTS, write_report
from clients.report.numbers import lines, summarise
from clients.report.results import document
from clients.sweep.plan import Settings
from clients.sweep.run import Manifest, read_manifest
from tests.clients.builders import row
from tests.clients.reports import a_run, facts, made_up, skip_painting


@pytest.fixture(autouse=True)
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_painting(monkeypatch)


def written(tmp_path: Path, rows: list[Record]) -> dict[str, Any]:
    """The documents by file name."""
    run = a_run(tmp_path, rows, Settings(samples=2, temperature=0.6, top_p=0.95, max_tokens=448))
    write_report(run)
    return {path.name: json.loads(path.read_text()) for path in (run / RESULTS).iterdir()}


def twice(rows: list[Record]) -> list[Record]:
    return [msgspec.structs.replace(r, sample=sample) for r in rows for sample in range(2)]


def test_one_file_per_budget_and_policy(tmp_path: Path) -> None:
    found = written(tmp_path, twice(made_up()))
    settings = ["full", "192_r_kv", "96_r_kv", "192_window", "96_window"]
    assert set(found) == {f"results_pocket-llama_{setting}.json" for setting in settings}


def test_the_numbers_are_ours_under_the_names_of_the_harness(tmp_path: Path) -> None:
    rows = twice(made_up())
    found = written(tmp_path, rows)["results_pocket-llama_96_r_kv.json"]
    own = [r for r in rows if (r.task, r.budget, r.policy) == ("hop", 96, "r_kv")]
    metrics = found["results"]["hop"]
    assert metrics["pass@1,none"] == statistics.pass_at_1(own)
    assert metrics["pass@1_stderr,none"] == statistics.standard_error(own)
    assert metrics["pass@2,none"] == statistics.pass_at_k(own, 2)
    assert metrics["majority@2,none"] == statistics.majority(own)
    assert (metrics["alias"], metrics["sample_len"]) == ("hop", 4)
    assert found["n-samples"]["hop"] == {"original": 4, "effective": 4}
    assert found["higher_is_better"]["hop"]["pass@1"] is True
    assert found["higher_is_better"]["hop"]["truncated"] is False
    assert found["n-shot"] == {"hop": 0, "memo": 0}
    arguments = found["config"]["model_args"]
    assert arguments == {"model": "pocket-llama", "kv_budget": 96, "policy": "r_kv"}
    assert found["configs"]["hop"]["generation_kwargs"]["temperature"] == 0.6
    created = datetime.fromisoformat(read_manifest(tmp_path / "run.json").created)
    assert datetime.fromtimestamp(found["date"], UTC) == created


def test_what_is_unknown_is_not_a_number(tmp_path: Path) -> None:
    [found] = written(tmp_path, [row("a", correct=False, status="timeout")]).values()
    assert found["results"]["t"]["pass@1,none"] == "N/A"
    assert found["results"]["t"]["unscored,none"] == 1.0


def test_the_harness_prints_it(tmp_path: Path) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="lm_eval is not installed")
    for found in written(tmp_path, twice(made_up())).values():
        table = utils.make_table(found)
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        mark = next(line for line in cells if line[4] == "pass@1")  # of the first task
        assert float(mark[6]) == pytest.approx(found["results"]["hop"]["pass@1,none"], abs=1e-4)
        assert mark[7] == "±"
        assert mark[5] == "↑"


def test_its_keys_are_those_of_the_schema() -> None:
    schema = pytest.importorskip("lm_eval.result_schema", reason="lm_eval is not installed")
    manifest = Manifest(
        run="r",
        created="2026-01-01T00:00:00+00:00",
        settings=Settings(),
        environment=environment(),
        servers={"m": facts("m")},
    )
    [line] = lines(summarise([row("a"), row("b")]))
    assert set(document(line, manifest)) <= set(schema.EvalResults.__annotations__)
