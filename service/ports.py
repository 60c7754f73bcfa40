"""The ports of the service: who may come in, what listens, and what is said where it cannot."""

import logging
from typing import Any, NamedTuple

import grpc
from prometheus_client import CollectorRegistry, start_http_server

from service.auth import AuthInterceptor
from service.config import ServiceConfig
from service.guard import MAX_METADATA_BYTES, GuardInterceptor
from service.reloading import Reloading
from service.tenants import read_tenants
from service.tls import Identity, read_identity, server_credentials

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MAX_CALLS = 16384  # a far backstop; the engine's queue is the limit that is meant
STREAMS_PER_CONNECTION = 1024  # the caller's library keeps back what is more
HANDSHAKE_MS = 5000  # a connection that has not said by then that it speaks HTTP/2 is closed
KEEPALIVE_MS = 20000  # a peer that is silent for so long is pinged,
PING_TIMEOUT_MS = 10000  # and given up if it does not answer within this


class StartError(Exception):
    """The service cannot start as configured."""


def grpc_options(config: ServiceConfig) -> list[tuple[str, int]]:
    """Channel arguments: dead peers are noticed, eager pings tolerated, one server per port."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),  # what callers are told; above it gRPC
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),  # refuses one in a thousand
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
        # Left to itself gRPC refuses most of a burst: as UNAVAILABLE while it still tidies up after
        # earlier streams of the connection, and at random as CANCELLED from 1,000 waiting calls on.
        ("grpc.http2.max_deallocating_streams", MAX_CALLS),
        ("grpc.server.max_pending_requests", MAX_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_CALLS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),  # its minute would win otherwise
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),
    ]


class Access(NamedTuple):
    """Who may come in."""

    interceptors: list[Any]  # of every call
    identity: Reloading[Identity] | None  # what TLS shows; None: plain text
    files: list[Reloading[Any]]  # that all this is read from


def read_access(config: ServiceConfig) -> Access:
    """What the configuration's files say. No grpc objects yet.

    Raises:
        StartError: a file cannot be used.
    """
    interceptors: list[Any] = [GuardInterceptor()]
    files: list[Reloading[Any]] = []
    file = config.tokens_file
    try:
        if file is not None:
            tenants = Reloading("tokens file", [file], lambda: read_tenants(file))
            interceptors.insert(0, AuthInterceptor(tenants))
            files.append(tenants)
            log.info("%d tenants", len(tenants.value))
        identity = read_identity(config)
    except (OSError, ValueError) as error:
        raise StartError(f"cannot serve as asked: {error}") from error
    if identity is None and config.host not in LOOPBACK:
        log.warning("%s is served without TLS: whoever listens in reads it", config.host)
    if file is None and config.host not in LOOPBACK:
        log.warning("%s is served without tokens: whoever reaches it may call", config.host)
    return Access(interceptors, identity, files if identity is None else [*files, identity])


def add_port(
    server: grpc.aio.Server, config: ServiceConfig, identity: Reloading[Identity] | None
) -> int:
    """The port that `server` will answer on; TLS if there is an identity to show.

    Raises:
        StartError: the address is taken, or none of this machine.
    """
    try:
        if identity is None:
            return int(server.add_insecure_port(config.listen))
        return int(server.add_secure_port(config.listen, server_credentials(identity)))
    except RuntimeError as error:
        raise StartError(
            f"cannot listen on {config.listen!r}; it must be host:port with a free port, 0 for any"
        ) from error


def serve_metrics(config: ServiceConfig, registry: CollectorRegistry) -> Any:
    """The HTTP server of Prometheus' metrics, on a thread of its own; None if none is wanted.

    Raises:
        StartError: the address is taken, or none of this machine.
    """
    if config.metrics_port is None:
        return None
    host, port = config.metrics_host, config.metrics_port
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise StartError(
            f"metrics cannot listen on {host}:{port} ({error.strerror}); choose another port, "
            "0 for any free one, or none"
        ) from error
    return server
