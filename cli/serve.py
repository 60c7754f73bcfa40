"""`sluice serve`: the command line of the service. Its options are in cli/serve_options.py."""

import asyncio
import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.failures import USAGE, fail, one_line_errors
from cli.options import option
from cli.serve_options import FIELDS, takes_options
from cli.serve_settings import Setting, as_toml, settle
from cli.standard_streams import expendable_streams
from service.config import BudgetLimits, EngineConfig, LogConfig, SchedulerConfig, ServiceConfig
from service.serve import serve as run_service
from service.server import Server

log = logging.getLogger(__name__)

ConfigFile = Annotated[Path | None, option("TOML file with the options below as keys.")]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print all settings and where from, and end.")
]


@takes_options
def serve(config: ConfigFile = None, print_config: PrintConfig = False, **given: Any) -> None:
    """Serve a model over gRPC until SIGTERM.

    What is not given here comes from the environment (SLUICE_SERVE_MODEL for --model), then from
    the file, then from the defaults.
    """
    settings = settings_of(given, config)
    if print_config:
        print(as_toml(settings))
        return
    with expendable_streams():
        code = asyncio.run(run_service(configured(settings), _announce))
    sys.exit(code)


def settings_of(given: dict[str, Any], file: Path | None) -> list[Setting]:
    """The settings in force; one line and exit code 2 where one of them cannot be used."""
    with one_line_errors(USAGE):
        present = {name: value for name, value in given.items() if value is not None}
        return settle(present, os.environ, file)


def configured(settings: list[Setting]) -> ServiceConfig:
    """The configuration of the service; one line and exit code 2 where it contradicts itself."""
    given = [setting for setting in settings if setting.source != "default"]
    try:
        return configure({setting.option.name: setting.value for setting in given})
    except ValueError as error:
        fail(str(error), USAGE)


def configure(options: dict[str, Any]) -> ServiceConfig:
    """The configuration with the options that were given; what is absent keeps its default."""
    engine = EngineConfig(
        **_fields_of(EngineConfig, options),
        budgets=BudgetLimits(**_fields_of(BudgetLimits, options)),
        scheduler=SchedulerConfig(**_fields_of(SchedulerConfig, options)),
        logs=LogConfig(**_fields_of(LogConfig, options)),
    )
    no_metrics = {} if options.get("metrics", True) else {"metrics_port": None}
    return ServiceConfig(**_fields_of(ServiceConfig, options) | no_metrics, engine=engine)


def _fields_of(dataclass: type, options: dict[str, Any]) -> dict[str, Any]:
    """The options that are fields of `dataclass`, by field."""
    by_field = {FIELDS.get(name, name): value for name, value in options.items()}
    names = {field.name for field in dataclasses.fields(dataclass)}
    return {name: value for name, value in by_field.items() if name in names}


def _announce(server: Server) -> None:
    """One line that machines can read."""
    config = server.config
    line = f"sluice: serving {server.model_name} on {config.host}:{server.port}"
    if server.metrics_port is not None:
        line += f", metrics on http://{config.metrics_host}:{server.metrics_port}/metrics"
    try:  # in one write, or lines of the log come between the line and its end
        print(f"{line}\n", end="", flush=True)
    except OSError as error:  # whoever started it is gone, or the disk is full: it serves anyway
        log.warning("standard output takes nothing (%s): %s", error.strerror, line)
