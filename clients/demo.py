"""The demo: accuracy and throughput against the KV budget, on the models that ship with Sluice."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from clients.errors import LocalServerError
from clients.local_server import local_servers
from clients.report.files import write_report
from clients.report.numbers import Summary
from clients.sweep.plan import Plan, Settings
from clients.sweep.run import MANIFEST, ROWS
from clients.sweep.runner import sweep
from clients.workloads.catalogue import choose
from clients.workloads.pocket import DEMO_FAMILIES

MODELS_DIRECTORY = Path(__file__).resolve().parents[1] / "models"
LOGS = "logs"


@dataclass(frozen=True)
class Demo:
    """The knobs.

    Only memory-bound work gains from a budget, so the KV pool is fixed: the whole cache overfills
    it several times, while under the smallest budget every request in flight has its blocks.
    """

    models: tuple[str, ...] = ("pocket-llama", "pocket-qwen")
    tasks: tuple[str, ...] = DEMO_FAMILIES
    problems: int = 14  # per task
    budgets: tuple[int | None, ...] = (None, 96, 128, 192, 256, 384)
    policies: tuple[str, ...] = ("r_kv", "window")
    concurrency: int = 14  # requests in flight
    max_tokens: int = 448  # the longest traces are near 420
    kv_blocks: int = 112  # of 16 tokens: 14 requests at a budget of 128
    seed: int = 0

    def plan(self) -> Plan:
        """What is measured on each model."""
        return Plan(
            problems=choose(self.tasks, self.problems, self.seed),
            budgets=self.budgets,
            policies=self.policies,
            settings=Settings(
                concurrency=self.concurrency,
                max_tokens=self.max_tokens,
                temperature=0.0,
                seed=self.seed,
            ),
        )

    def server_options(self) -> list[str]:
        """How each model is served."""
        options = {"--kv-blocks": self.kv_blocks, "--max-running": self.concurrency}
        return [
            *(part for name, value in options.items() for part in (name, str(value))),
            "--no-metrics",  # two servers cannot share the default metrics port
        ]


FULL = Demo()
# Under a minute on two cores, start-up of both servers and the report included.
QUICK = Demo(problems=12, budgets=(None, 128), policies=("r_kv",), concurrency=12, kv_blocks=96)


async def run_demo(
    demo: Demo, out: Path, console: Console, models: Path = MODELS_DIRECTORY
) -> list[Summary]:
    """Serves every model, sweeps it through gRPC, and writes the report into `out`.

    Always measures anew: rows of an earlier demo in `out` are replaced. Progress goes to `console`.

    Raises:
        LocalServerError: a model is missing, or its server did not come up.
        SweepError: a server went away.
    """
    directories = [str(_find(models / name)) for name in demo.models]
    for name in (ROWS, MANIFEST):
        (out / name).unlink(missing_ok=True)
    names = " and ".join(demo.models)
    console.print(f"starting {names} (the first time, kernels are compiled) ...", highlight=False)
    async with local_servers(directories, out / LOGS, demo.server_options()) as servers:
        await sweep([server.target for server in servers], demo.plan(), out, console)
    return write_report(out)


def _find(directory: Path) -> Path:
    if not (directory / "config.json").is_file():
        raise LocalServerError(
            f"the demo needs the model {directory.name}, but there is none in {directory.parent}; "
            "get it with a full checkout of the repository"
        )
    return directory
