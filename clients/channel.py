"""The gRPC channel: options for streams that may be silent for long, and the health wait."""

import asyncio
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clients.errors import NotServing

# A reasoning answer may be silent for minutes behind a queue, so the connection proves itself by
# pings. ping_timeout_ms is set as well because grpc otherwise waits 60 s whatever
# keepalive_timeout_ms says. Reconnects are quick because a restarting engine is back in seconds.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)
POLL_SECONDS = 0.1


def open_channel(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """A channel to `target` ("host:port" or any gRPC target), TLS if credentials are given."""
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(target, credentials, options=CHANNEL_OPTIONS)


async def wait_until_serving(channel: grpc.aio.Channel, target: str, timeout: float) -> None:
    """Returns as soon as the server's health is SERVING.

    Raises:
        NotServing: it was not within `timeout` seconds; says what was seen last.
    """
    stub: Any = health_pb2_grpc.HealthStub(channel)
    deadline = time.monotonic() + timeout
    last = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=left)
            last = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        except grpc.aio.AioRpcError as error:
            last = f"{error.code().name}: {error.details()}"
        if last == "SERVING":
            return
        await asyncio.sleep(min(POLL_SECONDS, left))
    raise NotServing(f"{target} was not SERVING within {timeout:g} s; last seen: {last}")
