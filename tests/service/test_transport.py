"""What arrives that is no proper request, and what other tools rely on: health, reflection."""

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.sluice.v1 import sluice_pb2 as pb
from service.errors import GARBAGE_TEXT, INTERNAL_TEXT
from tests.service.harness import Harness, config, fake_tokens, ids_request

ROOT = Path(__file__).parents[2]
UNARY = ["/sluice.v1.Control/GetLoad", "/grpc.health.v1.Health/Check"]
STREAMING = ["/sluice.v1.Inference/Generate", "/grpc.health.v1.Health/Watch"]
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


async def raw(harness: Harness, method: str, data: bytes) -> grpc.aio.AioRpcError:
    """The error that bytes get which were never a message."""
    channel = harness.channel
    if method in UNARY:
        call = channel.unary_unary(method)(data)
    elif method in STREAMING:
        call = channel.unary_stream(method)(data).read()
    else:
        both = channel.stream_stream(method)()
        await both.write(data)  # and no half-close, which could meet the refusal halfway
        call = both.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("method", [*UNARY, *STREAMING, REFLECTION])
def test_garbage_is_an_invalid_argument(fast: Harness, method: str) -> None:
    error = fast.run(raw(fast, method, b"\xff\xff\xff garbage"))
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, GARBAGE_TEXT)


def test_an_oversized_request_is_refused(launch) -> None:
    harness = launch(config(max_message_bytes=10_000))

    async def scenario() -> None:
        error = await harness.refusal(pb.GenerateRequest(text="x" * 20_000))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await harness.answer(ids_request([1], 3))).ids[0] == fake_tokens([1], 3)

    harness.run(scenario())


def test_an_unknown_method_is_unimplemented(fast: Harness) -> None:
    async def scenario() -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fast.channel.unary_unary("/sluice.v1.Inference/Guess")(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED

    fast.run(scenario())


def test_an_unforeseen_error_says_nothing_of_the_process(
    fast: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("secret at 0x7f00")

    monkeypatch.setattr("service.servicer.make_submit", explode)
    error = fast.run(fast.refusal(ids_request([1], 1)))
    assert error.code() == grpc.StatusCode.INTERNAL
    name = re.fullmatch(INTERNAL_TEXT.format("([0-9a-f]{8})"), error.details())
    assert name is not None
    assert f"internal error {name[1]}" in caplog.text
    assert "secret at 0x7f00" in caplog.text
    monkeypatch.undo()
    assert fast.run(fast.answer(ids_request([1], 1))).ids[0] == fake_tokens([1], 1)


def test_health_is_serving_for_every_service(fast: Harness) -> None:
    async def scenario() -> None:
        stub = health_pb2_grpc.HealthStub(fast.channel)
        for name in ("", "sluice.v1.Inference", "sluice.v1.Control"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    fast.run(scenario())


def test_reflection_lists_the_services(fast: Harness) -> None:
    async def scenario() -> None:
        stub = reflection_pb2_grpc.ServerReflectionStub(fast.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = await stub.ServerReflectionInfo(iter([request])).read()
        names = {service.name for service in answer.list_services_response.service}
        assert names >= {"sluice.v1.Inference", "sluice.v1.Control", "grpc.health.v1.Health"}

    fast.run(scenario())


def test_server_info_and_model_info(fast: Harness) -> None:
    async def scenario() -> None:
        info = await fast.control.GetServerInfo(pb.GetServerInfoRequest())
        assert info.version.count(".") == 2
        assert (info.schema_revision, info.max_running, info.max_waiting) == (2, 64, 4096)
        assert info.max_request_seconds == 3600
        assert info.uptime_seconds > 0
        model = await fast.control.GetModelInfo(pb.GetModelInfoRequest(model="fake"))
        assert (model.name, model.total_blocks, model.max_sequence_tokens) == ("fake", 512, 2048)
        assert model.has_chat_template
        assert {policy.name for policy in model.policies} >= {model.default_policy}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fast.control.GetModelInfo(pb.GetModelInfoRequest(model="other"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND

    fast.run(scenario())


def test_a_client_with_stubs_of_its_own_gets_the_same_tokens(fast: Harness, tmp_path: Path) -> None:
    """The .proto alone is enough to write a client; the committed stubs are not involved."""
    shutil.copy(ROOT / "protos/sluice/v1/sluice.proto", tmp_path / "fresh.proto")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "fresh.proto"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    client = (
        "import sys, grpc, fresh_pb2 as pb\n"
        "generate = grpc.insecure_channel(sys.argv[1]).unary_stream(\n"
        "    '/sluice.v1.Inference/Generate',\n"
        "    request_serializer=pb.GenerateRequest.SerializeToString,\n"
        "    response_deserializer=pb.GenerateEvent.FromString)\n"
        "request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[4, 5]))\n"
        "request.stopping.max_tokens = 25\n"
        "print(*(i for event in generate(request) for i in event.tokens.ids))\n"
    )

    async def scenario() -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", client, fast.address),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate()
        return out.decode()

    assert [int(token) for token in fast.run(scenario()).split()] == fake_tokens([4, 5], 25)


def test_a_health_watch_does_not_prolong_a_drain(launch) -> None:
    harness = launch(config())

    async def scenario() -> None:
        stub = health_pb2_grpc.HealthStub(harness.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        drain = asyncio.create_task(harness.server.stop(1000))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await asyncio.wait_for(drain, 30)

    harness.run(scenario())
