"""The `sluice` command as a process that Ctrl-C reaches.

A shell starts background jobs with SIGINT ignored, and children inherit that.
"""

import sys

_START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
SLUICE = [sys.executable, "-c", f"{_START}; from cli.main import app; app()"]
