"""Engines that misbehave, as targets of the engine process. They speak engine.messages only."""

import os
import time
from enum import IntEnum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from engine.fake import FakeRunner, FakeStep
from engine.loop import EngineLoop
from engine.messages import (
    Accepted,
    Delta,
    Finished,
    FinishReason,
    Load,
    Ready,
    Refusal,
    Refused,
    Shutdown,
    Step,
    Submit,
    Usage,
    decode_front,
    encode,
)
from engine.process import run_engine
from engine.runner_api import StepFailed
from scheduler.plan import StepPlan
from service.config import EngineConfig
from tests.service.harness import MODEL

GATE = "SLUICE_TEST_GATE"


def gated(config: EngineConfig, connection: Connection) -> None:
    """The real engine, which starts when the file that GATE names exists."""
    while not Path(os.environ[GATE]).exists():
        time.sleep(0.01)
    run_engine(config, connection)


def dies_at_once(config: EngineConfig, connection: Connection) -> None:
    os._exit(3)


def dies_after_ready(config: EngineConfig, connection: Connection) -> None:
    connection.send_bytes(encode(Ready(MODEL)))
    os._exit(4)


def talks_nonsense(config: EngineConfig, connection: Connection) -> None:
    """Ready, then bytes that are no message."""
    connection.send_bytes(encode(Ready(MODEL)))
    connection.send_bytes(b"\xff\xfe")
    time.sleep(60)


def deaf(config: EngineConfig, connection: Connection) -> None:
    """Accepts every request and never says another word of it."""
    for submit in _submits(connection):
        _step(connection, accepted=[_accepted(submit)])


def not_finite(config: EngineConfig, connection: Connection) -> None:
    """Draws two tokens, then finds that the logits are not finite."""
    for submit in _submits(connection):
        _step(
            connection,
            accepted=[_accepted(submit)],
            deltas=[Delta(submit.key, 0, [65, 66])],
            finished=[
                Finished(submit.key, output, FinishReason.ERROR, Usage())
                for output in range(submit.n)
            ],
        )


def lacking(config: EngineConfig, connection: Connection) -> None:
    """Has no file for the policy that is asked for."""
    for submit in _submits(connection):
        refusal = Refusal.UNAVAILABLE_POLICY
        _step(
            connection,
            refused=[Refused(submit.key, refusal, "kv_budget.policy", "make it: sluice calibrate")],
        )


def late(config: EngineConfig, connection: Connection) -> None:
    """Sends events for keys that nobody has, around a correct answer."""
    for submit in _submits(connection):
        unknown = submit.key + 1000
        _step(
            connection,
            accepted=[_accepted(submit), Accepted(unknown, 1, 1, 0, "", 0, 0, 0, 0)],
            deltas=[Delta(unknown, 0, [1]), Delta(submit.key, 0, [65])],
            finished=[
                Finished(unknown, 7, FinishReason.LENGTH, Usage()),
                Finished(submit.key, 0, FinishReason.LENGTH, Usage(completion_tokens=1)),
                Finished(submit.key, 0, FinishReason.LENGTH, Usage(completion_tokens=1)),
            ],
        )


def lingers(config: EngineConfig, connection: Connection) -> None:
    """Does not care about Shutdown."""
    connection.send_bytes(encode(Ready(MODEL)))
    time.sleep(60)


class Poison(IntEnum):
    """First tokens of prompts, and what they spoil."""

    STEP = 13
    ENGINE = 17


class PoisonedRunner(FakeRunner):
    """Fails whenever it computes the tenth position of a prompt that begins with a poison."""

    def launch(self, plan: StepPlan) -> FakeStep:
        for chunk in plan.chunks:
            if chunk.start <= 9 < chunk.start + chunk.count:
                match chunk.sequence.tokens[0]:
                    case Poison.STEP:
                        raise StepFailed("OutOfMemoryError: simulated")
                    case Poison.ENGINE:
                        os._exit(5)
        return super().launch(plan)


def poisoned(config: EngineConfig, connection: Connection) -> None:
    """The real loop on a PoisonedRunner."""
    EngineLoop(PoisonedRunner(config), config.scheduler, connection).run()


def _submits(connection: Connection) -> Any:
    connection.send_bytes(encode(Ready(MODEL)))
    while True:
        try:
            message = decode_front(connection.recv_bytes())
        except EOFError:
            return
        if isinstance(message, Shutdown):
            return
        if isinstance(message, Submit):
            yield message


def _accepted(submit: Submit) -> Accepted:
    return Accepted(submit.key, len(submit.prompt), submit.max_new_tokens or 1, 0, "", 0, 0, 0, 0)


def _step(connection: Connection, **events: Any) -> None:
    empty: dict[str, Any] = {"accepted": [], "refused": [], "deltas": [], "finished": []}
    connection.send_bytes(encode(Step(**(empty | events), load=Load())))
