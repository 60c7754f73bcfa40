"""`sluice policies`: what a request to a server may name as its eviction policy."""

from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from cli.failures import one_line_errors
from cli.options import DEFAULT_SERVER
from cli.terminal import wide_console
from clients.sdk import Client

Server = Annotated[str, typer.Option(help="host:port of the service.")]


def policies(server: Server = DEFAULT_SERVER) -> None:
    """List the eviction policies of a server: the idea, what each needs, settings and ranges."""
    with one_line_errors(), Client(server) as client:
        info = client.model_info()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("policy", no_wrap=True)
    table.add_column("what it keeps, and its settings")
    table.add_column("needs; default (range)")
    for policy in info.policies:
        default = " (default)" if policy.name == info.default_policy else ""
        table.add_row(
            f"[bold]{escape(policy.name)}[/bold]{default}",
            escape(policy.summary),
            escape(policy.needs) or "nothing",
        )
        if policy.unavailable:
            table.add_row("", f"[bold]unavailable:[/bold] {escape(policy.unavailable)}")
        for setting in policy.settings:
            span = f"{setting.default_value:g} ({setting.minimum:g} to {setting.maximum:g})"
            table.add_row(f"  {escape(setting.name)}", f"  {escape(setting.description)}", span)
    wide_console().print(table)
