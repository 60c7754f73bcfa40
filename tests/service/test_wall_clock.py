"""The clock on the wall jumps by an hour while answers are under way: nobody notices."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import grpc
import pytest

from tests.service.harness import Caller, eventually, fake_tokens, ids_request
from tests.service.test_serve import served

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
HOUR = 3600
TOKENS = 250  # without --fake-step-seconds: time.sleep of Python 3.11 fails under libfaketime
OPTIONS = ("--log-format", "json", "--engine-silence-seconds", "30")


async def answered(caller: Caller, number: int) -> None:
    answer = await caller.answer(ids_request([number], TOKENS), timeout=60)
    assert answer.ids[0] == fake_tokens([number], TOKENS)


async def overdue(caller: Caller) -> None:
    begun = time.monotonic()
    error = await caller.refusal(ids_request([1], 30_000), timeout=0.6)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun > 0.5


@pytest.mark.skipif(
    LIBRARY is None, reason="libfaketime is not installed (apt-get install faketime)"
)
def test_jumps_of_an_hour_change_nothing(
    runner: asyncio.Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0")
    monkeypatch.setenv("LD_PRELOAD", str(LIBRARY))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")  # as jumps of a real machine

    def jump(seconds: int) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(f"{seconds:+d}")
        os.replace(fresh, offset)  # never half written

    async def scenario(address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            caller = Caller(channel)
            for seconds in (HOUR, -HOUR):
                begun = [asyncio.create_task(answered(caller, number)) for number in range(2)]
                begun.append(asyncio.create_task(overdue(caller)))
                await asyncio.sleep(0.05)
                jump(seconds)
                await asyncio.gather(*begun)
            await eventually(caller.is_idle)
            load = await caller.load()
            for latency in (load.first_token, load.inter_token, load.request):
                assert 0 < latency.p99 < 100

    with served(*OPTIONS) as (process, address):
        runner.run(scenario(address))
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
    entries = [json.loads(line) for line in log.splitlines()]
    requests = [entry for entry in entries if entry["logger"] == "service.request_log"]
    assert len({entry["time"][11:13] for entry in requests}) > 1, "no jump"
    assert all(0 <= entry["seconds"] < 100 for entry in requests)
    assert {entry["level"] for entry in entries} == {"info"}
