"""Entry point of the engine process, which the front spawns before it makes any grpc object."""

import gc
import logging
import os
import signal
import sys
from multiprocessing.connection import Connection

from engine.config import FAKE_MODEL, EngineConfig
from engine.fake import FakeRunner
from engine.logs import start_logs
from engine.loop import EngineLoop
from engine.runner_api import Runner

log = logging.getLogger(__name__)


def run_engine(config: EngineConfig, connection: Connection) -> None:
    """Loads the model and serves the pipe until Shutdown or end of file.

    Signals that end a terminal session are left to the front, which drains and then says Shutdown.
    """
    # Threads of torch and numba that spin while they wait take the cores from each other and from
    # the front. Read when the libraries load, so it is set before anything imports them.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    start_logs(config.logs)
    try:
        loop = EngineLoop(build_runner(config), config.scheduler, connection)
    except (ValueError, OSError, ImportError) as error:  # most often a setting, so one line
        log.error("cannot start: %s", error, exc_info=log.isEnabledFor(logging.DEBUG))
        sys.exit(1)
    gc.freeze()  # what libraries and the model left is never garbage; a full collection took 0.2 s
    try:
        loop.run()
    except Exception:
        log.exception("the engine failed")  # in the form of all other lines
        sys.exit(1)


def build_runner(config: EngineConfig) -> Runner:
    """The runner for `config.model`; torch is imported only where a model needs it."""
    if config.model == FAKE_MODEL:
        return FakeRunner(config)
    from engine.runner import ModelRunner

    return ModelRunner(config)
