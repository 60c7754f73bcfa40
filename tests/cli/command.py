"""The `sluice` command, called here or started as a process that Ctrl-C reaches."""

import sys

from typer.testing import CliRunner

from cli.main import app

# A shell starts background jobs with SIGINT ignored, and children inherit that.
_START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
INTERRUPTIBLE = [sys.executable, "-c", f"{_START}; from cli.main import app; app()"]


def sluice(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr
