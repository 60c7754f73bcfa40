"""`sluice serve`: the command line of the service. Every default is the dataclass's own."""

import asyncio
import dataclasses
import logging
import sys
from typing import Annotated, Any

import typer

from service.config import BudgetLimits, EngineConfig, SchedulerConfig, ServiceConfig
from service.serve import serve as run_service
from service.server import Server

BUDGET_OPTIONS = {"default_tokens": "default_kv_budget", "max_tokens": "max_kv_budget"}


def option(text: str) -> Any:
    return typer.Option(help=text, show_default=False)


def serve(  # noqa: PLR0913 - the signature is the command line
    model: Annotated[str | None, option("A directory, a hub id, or 'fake'.")] = None,
    name: Annotated[str | None, option("What requests call the model.")] = None,
    listen: Annotated[str | None, option("host:port of gRPC; port 0 is any free one.")] = None,
    metrics_host: Annotated[str | None, option("Address of the metrics port.")] = None,
    metrics_port: Annotated[int | None, option("Prometheus port; 0 is any free one.")] = None,
    metrics: Annotated[bool, typer.Option(help="Whether to have a metrics port.")] = True,
    max_request_seconds: Annotated[float | None, option("Longest time of a request.")] = None,
    drain_seconds: Annotated[float | None, option("Time for live streams after SIGTERM.")] = None,
    tokens_file: Annotated[str | None, option("TOML: tenants, tokens, quotas.")] = None,
    tls_cert: Annotated[str | None, option("Certificate of this server, PEM.")] = None,
    tls_key: Annotated[str | None, option("Its key, PEM.")] = None,
    tls_client_ca: Annotated[str | None, option("Clients must show what this CA signed.")] = None,
    device: Annotated[str | None, option("auto, cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, option("auto, float32, bfloat16 or float16.")] = None,
    kv_dtype: Annotated[str | None, option("Of the KV cache: auto or fp8_e4m3.")] = None,
    kernels: Annotated[str | None, option("auto, triton, numba or reference.")] = None,
    threads: Annotated[int | None, option("CPU threads of the engine.")] = None,
    kv_blocks: Annotated[int | None, option("Blocks of the KV pool.")] = None,
    kv_memory_gib: Annotated[float | None, option("Size of the KV pool, for --kv-blocks.")] = None,
    block_size: Annotated[int | None, option("KV entries per block.")] = None,
    max_running: Annotated[int | None, option("Outputs that run at once.")] = None,
    max_waiting: Annotated[int | None, option("Outputs that may wait.")] = None,
    max_batch_tokens: Annotated[int | None, option("Tokens of one step.")] = None,
    max_sequence_tokens: Annotated[int | None, option("Longest sequence.")] = None,
    prefix_cache: Annotated[bool | None, option("Share the KV of equal prompts.")] = None,
    default_kv_budget: Annotated[int | None, option("KV budget of requests without one.")] = None,
    max_kv_budget: Annotated[int | None, option("Largest KV budget allowed.")] = None,
    default_policy: Annotated[str | None, option("Policy of requests without one.")] = None,
    fused: Annotated[bool | None, option("Fuse small operations of the model.")] = None,
    static_steps: Annotated[bool | None, option("CUDA graphs; on by default on GPUs.")] = None,
    overlap: Annotated[bool | None, option("Launch a step before the last is read.")] = None,
    query_ring: Annotated[int | None, option("Recent queries kept for policies.")] = None,
    fake_step_seconds: Annotated[float | None, option("Length of the fake model's step.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve a model over gRPC until SIGTERM."""
    given = {name: value for name, value in locals().items() if value is not None}
    try:
        config = configure(given)
        logging.basicConfig(
            level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    sys.exit(asyncio.run(run_service(config, _announce)))


def configure(options: dict[str, Any]) -> ServiceConfig:
    """The configuration with the options that were given; what is absent keeps its default."""
    engine = EngineConfig(
        **_fields_of(EngineConfig, options),
        budgets=BudgetLimits(**_fields_of(BudgetLimits, options, BUDGET_OPTIONS)),
        scheduler=SchedulerConfig(**_fields_of(SchedulerConfig, options)),
    )
    no_metrics = {} if options["metrics"] else {"metrics_port": None}
    return ServiceConfig(**_fields_of(ServiceConfig, options) | no_metrics, engine=engine)


def _fields_of(
    dataclass: type, options: dict[str, Any], renamed: dict[str, str] | None = None
) -> dict[str, Any]:
    """The options that are fields of `dataclass`; `renamed` maps fields to other option names."""
    names = {field.name: field.name for field in dataclasses.fields(dataclass)} | (renamed or {})
    return {field: options[option] for field, option in names.items() if option in options}


def _announce(server: Server) -> None:
    """One line that machines can read."""
    config = server.config
    line = f"sluice: serving {server.model_name} on {config.host}:{server.port}"
    if server.metrics_port is not None:
        line += f", metrics on http://{config.metrics_host}:{server.metrics_port}/metrics"
    print(line, flush=True)
