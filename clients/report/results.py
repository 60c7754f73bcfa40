"""Results as lm-evaluation-harness writes them, so that scripts that read its files read these.

One file per model, budget and policy; the keys are those of `lm_eval.result_schema` (0.4.13). What
the harness knows and we do not (hashes, its own version) is left out; `null` is its "N/A".
"""

from datetime import datetime
from typing import Any

from clients.report.numbers import Line, Summary
from clients.sweep.run import Manifest

FILTER = "none"
HIGHER_IS_BETTER = {"pass": True, "majority": True, "tokens_per_second": True}


def document(line: Line, manifest: Manifest) -> dict[str, Any]:
    """The results of one line of the tables; `manifest` of the run that it was measured in."""
    cells = {task: cell for task, cell in line.cells.items() if cell.n}
    server = manifest.servers.get(line.model)
    metrics = {task: _metrics(cell) for task, cell in cells.items()}
    version = manifest.environment.packages.get("sluice", "N/A")
    return {
        "results": {task: _result(task, cells[task], metrics[task]) for task in cells},
        "group_subtasks": {task: [] for task in cells},
        "configs": {task: _config(task, cells[task], manifest) for task in cells},
        "versions": dict.fromkeys(cells, version),
        "n-shot": dict.fromkeys(cells, 0),
        "higher_is_better": {
            task: {name: _is_better(name) for name in found} for task, found in metrics.items()
        },
        "n-samples": {
            task: {"original": cell.problems, "effective": cell.problems}
            for task, cell in cells.items()
        },
        "config": {
            "model": "sluice",
            "model_args": {
                "model": line.model,
                "kv_budget": "full" if line.budget is None else line.budget,
                "policy": line.policy,
            },
            "model_dtype": None if server is None else server.dtype,
            "batch_size": str(manifest.settings.concurrency),
            "device": None if server is None else server.device,
            "limit": None,
            "gen_kwargs": _sampling(manifest),
            "random_seed": manifest.settings.seed,
        },
        "git_hash": None,
        "date": datetime.fromisoformat(manifest.created).timestamp(),
        "model_source": "sluice",
        "model_name": line.model,
        "model_name_sanitized": line.model.replace("/", "__"),
        "task_hashes": {},
    }


def _metrics(cell: Summary) -> dict[str, float | int | None]:
    several = {} if cell.majority is None else {f"majority@{cell.samples}": cell.majority}
    return {
        "pass@1": cell.pass_at_1,
        **{f"pass@{k}": value for k, value in cell.pass_at_k.items()},
        **several,
        "tokens_per_second": cell.tokens_per_second,
        "completion_tokens": cell.completion_tokens,
        "truncated": cell.share_truncated,
        "no_answer": cell.share_no_answer,
        "unscored": cell.share_unscored,
    }


def _result(task: str, cell: Summary, metrics: dict[str, float | int | None]) -> dict[str, Any]:
    errors = {"pass@1": cell.stderr}
    found: dict[str, Any] = {"name": task, "alias": task, "sample_len": cell.problems}
    for name, value in metrics.items():
        found[f"{name},{FILTER}"] = "N/A" if value is None else value
        error = errors.get(name)
        found[f"{name}_stderr,{FILTER}"] = "N/A" if error is None else error
    return found


def _is_better(metric: str) -> bool | None:
    """Whether more of it is; a length is neither."""
    if metric == "completion_tokens":
        return None
    return HIGHER_IS_BETTER.get(metric.partition("@")[0], False)


def _config(task: str, cell: Summary, manifest: Manifest) -> dict[str, Any]:
    return {
        "task": task,
        "output_type": "generate_until",
        "num_fewshot": 0,
        "repeats": cell.samples,
        "generation_kwargs": _sampling(manifest),
        "metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": manifest.environment.packages.get("sluice", "N/A")},
    }


def _sampling(manifest: Manifest) -> dict[str, Any]:
    """What is null was the server's default."""
    settings = manifest.settings
    return {
        "max_gen_toks": settings.max_tokens,
        "do_sample": settings.temperature != 0,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "seed": settings.seed,
    }
