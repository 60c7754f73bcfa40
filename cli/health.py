"""`sluice health`: whether a server takes requests, for the probes of containers."""

from typing import Annotated

import typer

from cli.failures import one_line_errors
from cli.options import DEFAULT_SERVER
from clients.sdk import Client

Server = Annotated[str, typer.Option(help="host:port of the service.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for SERVING.")]


def health(server: Server = DEFAULT_SERVER, timeout: Timeout = 2.0) -> None:
    """Print SERVING and end with 0 if the server takes requests; else one line, and 1."""
    with one_line_errors(), Client(server) as client:
        client.wait_until_serving(timeout)
    print("SERVING")
