"""The engine's process, and when it ends."""

import multiprocessing

import pytest

from engine.config import EngineConfig
from engine.messages import Ready, Sampling, Submit, decode_engine, encode
from engine.process import run_engine
from tests.builders import PATIENCE


@pytest.mark.parametrize("when", ["at once", "idle", "busy"])
def test_an_engine_process_exits_soon_after_its_front_is_gone(when: str) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    config = EngineConfig(fake_step_seconds=0.01)
    process = context.Process(target=run_engine, args=(config, theirs), daemon=True)
    process.start()
    theirs.close()
    if when != "at once":
        assert ours.poll(6 * PATIENCE), "the engine does not start"
        assert isinstance(decode_engine(ours.recv_bytes()), Ready)
    if when == "busy":
        ours.send_bytes(encode(Submit(1, [5], Sampling(), max_new_tokens=5000)))
        ours.recv_bytes()
    ours.close()
    process.join(2.0 if when != "at once" else 6 * PATIENCE)
    assert process.exitcode == 0
    process.close()
