"""Tokens on every service but health, and tenants that do not see each other."""

import asyncio
import hmac
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from protos.sluice.v1 import sluice_pb2 as pb
from service.errors import UNAUTHENTICATED_TEXT
from service.server import Server, StartError
from service.tenants import read_tenants
from tests.service.harness import Harness, config, details, eventually, fake_tokens, ids_request

ALICE, BOB = "alice-0123456789", "bob-0123456789abc"
TOKENS = f"""
[alice]
tokens = ["{ALICE}"]
max_waiting = 3
max_kv_tokens = 3000

[bob]
sha256 = ["{sha256(BOB.encode()).hexdigest()}"]
weight = 2
max_running = 1
"""
METHODS = [
    "/sluice.v1.Inference/Generate",
    "/sluice.v1.Control/GetServerInfo",
    "/sluice.v1.Control/GetModelInfo",
    "/sluice.v1.Control/GetLoad",
    "/sluice.v1.Control/Abort",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]
CONFUSED = [  # CVE-2026-48746: paths that look open
    "/grpc.health.v1.Health/../sluice.v1.Control/GetLoad",
    "/grpc.health.v1.Health/Check/sluice.v1.Control/GetLoad",
    "/grpc.health.v1.HealthX/Check",
    "/GRPC.HEALTH.V1.HEALTH/Check",
    "//grpc.health.v1.Health/Check",
    "/sluice.v1.Control//GetLoad",
    "/sluice.v1.Control/Guess",
    "/x",
]
WRONG = [
    (),
    (("authorization", ""),),
    (("authorization", "Bearer"),),
    (("authorization", "Bearer "),),
    (("authorization", "Bearer wrong-0123456789"),),
    (("authorization", f"Bearer {ALICE[:-1]}"),),
    (("authorization", f"Bearer {ALICE}x"),),
    (("authorization", f"Basic {ALICE}"),),
    (("authorization", ALICE),),
    (("authorization", "Bearer alice"),),
    (("x-authorization", f"Bearer {ALICE}"),),
    (("authorization", f"Bearer {ALICE}"), ("authorization", "Bearer wrong-0123456789")),
]


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(TOKENS)
    return path


@pytest.fixture
def guarded(launch: Callable[..., Harness], tokens: Path) -> Harness:
    return launch(config(0.01, kv_blocks=512, tokens_file=str(tokens)))


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


def test_whoever_has_no_valid_token_is_told_one_thing(guarded: Harness) -> None:
    """On every method of every kind, and before the message is parsed."""
    denied = grpc.StatusCode.UNAUTHENTICATED, UNAUTHENTICATED_TEXT

    async def scenario() -> None:
        channel = guarded.channel
        for method in METHODS + CONFUSED:
            for metadata in WRONG if method in METHODS[:2] else WRONG[:1]:
                unary = channel.unary_unary(method)(b"\xff", metadata=metadata)
                assert await code_of(unary) == denied, method
                stream = channel.unary_stream(method)(b"\xff", metadata=metadata)
                assert await code_of(stream.read()) == denied, method
                # says nothing: a write that meets the refusal halfway fails in the client itself
                both = channel.stream_stream(method)(metadata=metadata)
                assert await code_of(both.read()) == denied, method

    guarded.run(scenario())


def test_health_is_open(guarded: Harness) -> None:
    async def scenario() -> None:
        stub = health_pb2_grpc.HealthStub(guarded.channel)
        request = health_pb2.HealthCheckRequest(service="sluice.v1.Inference")
        assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        assert (await stub.Watch(request).read()).status == health_pb2.HealthCheckResponse.SERVING

    guarded.run(scenario())


@pytest.mark.parametrize("token", [ALICE, BOB])
def test_a_token_opens_every_service(guarded: Harness, token: str) -> None:
    async def scenario() -> None:
        metadata = bearer(token)
        answer = await guarded.answer(ids_request([1, 2], 5), metadata=metadata)
        assert answer.ids[0] == fake_tokens([1, 2], 5)
        await guarded.control.GetLoad(pb.GetLoadRequest(), metadata=metadata)
        stub = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]), metadata=metadata)
        assert (await call.read()).list_services_response.service

    guarded.run(scenario())


def test_no_tenant_sees_or_ends_the_requests_of_another(guarded: Harness) -> None:
    async def scenario() -> None:
        calls = {}
        for token in (ALICE, BOB):  # the same id, twice
            request = ids_request([1], 2000, request_id="mine")
            calls[token] = guarded.inference.Generate(request, metadata=bearer(token))
            assert (await calls[token].read()).accepted.request_id == "mine"
        mallory = guarded.inference.Generate(
            ids_request([1], 9, request_id="mine"), metadata=bearer(BOB)
        )
        assert (await code_of(mallory.read()))[0] == grpc.StatusCode.ALREADY_EXISTS

        async def abort(token: str, **target: Any) -> int:
            request = pb.AbortRequest(**target)
            return (await guarded.control.Abort(request, metadata=bearer(token))).aborted

        assert await abort(BOB, request_id="other") == 0
        assert await abort(BOB, all=True) == 1
        assert len(guarded.server.live) == 1, "alice's lives"
        assert await abort(BOB, request_id="mine") == 0
        assert await abort(ALICE, request_id="mine") == 1

        async def empty() -> bool:
            return not len(guarded.server.live)

        await eventually(empty)

    guarded.run(scenario())


def test_quotas_are_named_and_say_when_to_come_back(guarded: Harness) -> None:
    async def scenario() -> None:
        too_much = await guarded.refusal(ids_request([1], 3000), metadata=bearer(ALICE))
        assert quota(too_much) == "max_kv_tokens"
        assert details(too_much)[1] is None
        many = ids_request([1], 5, sampling=pb.Sampling(n=4))
        error = await guarded.refusal(many, metadata=bearer(ALICE))
        assert (quota(error), details(error)[1]) == ("max_waiting", None)
        long = ids_request([1], 1500, sampling=pb.Sampling(n=2))  # two fill its KV tokens
        running = guarded.inference.Generate(long, metadata=bearer(ALICE))
        assert (await running.read()).HasField("accepted")
        waiting = guarded.inference.Generate(
            ids_request([1], 1500, sampling=pb.Sampling(n=2)), metadata=bearer(ALICE)
        )
        assert (await waiting.read()).HasField("accepted")
        error = await guarded.refusal(
            ids_request([1], 5, sampling=pb.Sampling(n=3)), metadata=bearer(ALICE)
        )
        assert quota(error) == "max_waiting"
        assert details(error)[1] >= 1
        answer = await guarded.answer(ids_request([2], 5), metadata=bearer(BOB))
        assert answer.ids[0] == fake_tokens([2], 5), "others go on"
        running.cancel()
        waiting.cancel()

    guarded.run(scenario())


def quota(error: grpc.aio.AioRpcError) -> str:
    """The one that QuotaFailure names."""
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    failure = error_details_pb2.QuotaFailure()
    assert any(detail.Unpack(failure) for detail in rpc_status.from_call(error).details)
    return failure.violations[0].subject


def test_tokens_are_replaced_while_the_service_runs(
    guarded: Harness, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def status(token: str) -> grpc.StatusCode:
        call = guarded.control.GetLoad(pb.GetLoadRequest(), metadata=bearer(token))
        return await call.code()

    async def scenario() -> None:
        replace(tokens, TOKENS.replace(ALICE, "fresh-0123456789"))
        assert await status(ALICE) == grpc.StatusCode.UNAUTHENTICATED
        assert await status("fresh-0123456789") == grpc.StatusCode.OK
        replace(tokens, f"[alice]\ntokens = ['{ALICE}'")  # broken: what was good stays
        assert await status("fresh-0123456789") == grpc.StatusCode.OK
        assert await status(ALICE) == grpc.StatusCode.UNAUTHENTICATED
        tokens.unlink()
        assert await status(BOB) == grpc.StatusCode.OK

    guarded.run(scenario())
    assert caplog.text.count("tokens file not reloaded") == 1
    assert "0123456789" not in caplog.text, "a token is in the log"


def replace(path: Path, text: str) -> None:
    """As editors and Kubernetes do it: the new file comes in whole."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


def test_a_token_is_compared_with_all_in_constant_time(
    tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-59425: neither where a token differs nor whose it is shows in the time it takes."""
    tenants, compared = read_tenants(str(tokens)), []

    def compare(known: bytes, digest: bytes) -> bool:
        compared.append((len(known), len(digest)))
        return known == digest

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in (ALICE, BOB, "wrong"):
        compared.clear()
        tenants.find(token.encode())
        assert compared == [(32, 32)] * 2
    assert ALICE.encode() not in repr(vars(tenants)).encode(), "tokens are kept as digests"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no tenant"),
        ("[a]", "it has no token"),
        ("[a]\ntokens = []", "it has no token"),
        ("[a]\ntokens = ['short']", "shorter than 16"),
        ("[a]\ntokens = 'x0123456789abcdef'", "must be a list"),
        ("[a]\ntokens = ['ü0123456789abcdef']", "not printable ASCII"),
        ("[a]\nsha256 = ['00']", "64 hexadecimal digits"),
        ("[a]\ntokens = ['x0123456789abcdef']\nweight = 0", "weight is 0; allowed"),
        ("[a]\ntokens = ['x0123456789abcdef']\nweight = nan", "weight is nan; allowed"),
        ("[a]\ntokens = ['x0123456789abcdef']\nmax_running = 0", "max_running is 0; allowed"),
        ("[a]\ntokens = ['x0123456789abcdef']\nmax_waiting = true", "max_waiting is True"),
        ("[a]\ntokens = ['x0123456789abcdef']\nquota = 1", "got 'quota'; known are max_kv"),
        ("['a b']\ntokens = ['x0123456789abcdef']", "names are"),
        ("a = 1", "a table is wanted"),
        ("[a]\ntokens = ['x0123456789abcdef']\n[b]\ntokens = ['x0123456789abcdef']", "twice"),
        ("[a", "is not TOML"),
    ],
)
def test_a_tokens_file_that_is_wrong_says_where_and_no_token(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=complaint) as caught:
        read_tenants(str(path))
    assert "0123456789" not in str(caught.value)


def test_a_service_with_a_wrong_tokens_file_does_not_start(
    runner: asyncio.Runner, tmp_path: Path
) -> None:
    async def scenario() -> None:
        server = Server(config(tokens_file=str(tmp_path / "none.toml")))
        with pytest.raises(StartError, match=r"No such file.*none\.toml"):
            await server.start()
        assert server.client.pid is None, "refused before the engine was started"
        await server.stop(None)

    runner.run(scenario())
