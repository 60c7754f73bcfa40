"""The `sluice` command. Each subcommand lives in its own module, imported only when it is used."""

import os
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS = {  # name -> module and function
    "serve": ("cli.serve", "serve"),
    "generate": ("cli.generate", "generate"),
    "sweep": ("cli.sweep", "sweep"),
    "score": ("cli.score", "score"),
    "report": ("cli.report", "report"),
    "load": ("cli.load", "load"),
    "doctor": ("cli.doctor", "doctor"),
    "health": ("cli.health", "health"),
    "policies": ("cli.policies", "policies"),
    "top": ("cli.top", "top"),
    "demo": ("cli.demo", "demo"),
    "calibrate": ("cli.calibrate", "calibrate"),
    "version": ("cli.main", "version"),
}


class LazyGroup(TyperGroup):
    """Knows its commands by name; `generate` must not wait for the imports of `serve`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name]
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(getattr(import_module(module), function))
        return typer.main.get_command(single)


app = typer.Typer(
    cls=LazyGroup, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)


def _variable(name: str, text: str) -> Any:
    return typer.Option(envvar=name, help=text, show_default=False)


@app.callback()
def main(
    tls_ca: Annotated[str | None, _variable("SLUICE_TLS_CA", "Trust servers of this CA.")] = None,
    tls_cert: Annotated[str | None, _variable("SLUICE_TLS_CERT", "Show this certificate.")] = None,
    tls_key: Annotated[str | None, _variable("SLUICE_TLS_KEY", "Its key.")] = None,
) -> None:
    """Sluice: a gRPC decoding service in which every request chooses its KV budget.

    Clients send the bearer token in SLUICE_TOKEN. The options here come before the command.
    """
    given = {"SLUICE_TLS_CA": tls_ca, "SLUICE_TLS_CERT": tls_cert, "SLUICE_TLS_KEY": tls_key}
    os.environ.update({name: value for name, value in given.items() if value is not None})


def version() -> None:
    """Print the version."""
    print(f"sluice {metadata.version('sluice')}")


if __name__ == "__main__":
    app(prog_name="sluice")
