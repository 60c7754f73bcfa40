"""The composition root: puts the parts together, starts and stops them in the right order.

The engine is spawned before any grpc object exists. Exactly one asyncio loop of the process
touches grpc.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    start_http_server,
)

from engine.process import run_engine
from protos.sluice.v1 import sluice_pb2, sluice_pb2_grpc
from service.auth import AuthInterceptor
from service.calls import CallCounter
from service.config import ServiceConfig
from service.control import ControlServicer
from service.engine_client import EngineClient
from service.engine_link import EngineTarget
from service.engine_watch import watch_engine
from service.guard import GuardInterceptor
from service.live import LiveRequests
from service.metrics import ServiceMetrics
from service.reloading import Reloading
from service.servicer import InferenceServicer
from service.supervisor import RestartPolicy, supervise
from service.tenants import read_tenants
from service.text_api import Text, load_text
from service.tls import Identity, read_identity, server_credentials
from service.totals import LoadTotals
from service.watch import watch

log = logging.getLogger(__name__)

SERVICES = sluice_pb2.DESCRIPTOR.services_by_name
INFERENCE, CONTROL = (SERVICES[name].full_name for name in ("Inference", "Control"))
ENGINE_STOP_SECONDS = 5.0
LAST_CALLS_SECONDS = 1.0  # for calls that are no requests, once the last request has ended
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MAX_CALLS = 16384  # a far backstop; the engine's queue is the limit that is meant


class StartError(Exception):
    """The service cannot start as configured."""


def grpc_options(config: ServiceConfig) -> list[tuple[str, int]]:
    """Channel arguments: dead peers are noticed, eager pings tolerated, one server per port."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_metadata_size", 8192),
        ("grpc.absolute_max_metadata_size", 16384),
        ("grpc.max_concurrent_streams", 1024),  # per connection
        ("grpc.server_handshake_timeout_ms", 5000),
        ("grpc.keepalive_time_ms", 20000),
        ("grpc.keepalive_timeout_ms", 10000),
        ("grpc.http2.ping_timeout_ms", 10000),  # its default of a minute would win otherwise
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),
    ]


class Server:
    """The front process: start, wait for a fatal failure, stop."""

    def __init__(
        self,
        config: ServiceConfig,
        *,
        target: EngineTarget = run_engine,
        restarts: RestartPolicy | None = None,
    ) -> None:
        self.config = config
        self._restarts = restarts or RestartPolicy()
        self._registry = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self._registry.register(collector)
        self._totals = LoadTotals()
        self.metrics = ServiceMetrics(self._registry, self._totals)
        self.client = EngineClient(config, self._totals, self.metrics, target)
        self.live = LiveRequests(self.client)
        self.port = 0  # of gRPC, once started
        self.metrics_port: int | None = None
        self._grpc: grpc.aio.Server | None = None
        self._health: Any = None
        self._inference: InferenceServicer | None = None
        self._metrics_server: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def model_name(self) -> str:
        return self.client.model.name if self.client.model else self.config.engine.served_name

    async def start(self) -> None:
        """Returns when requests can be served.

        Raises:
            EngineFailed: the engine ended before it was ready.
            StartError: the tokenizer, the tokens or TLS cannot be used, or an address is taken.
        """
        interceptors, identity = _access(self.config)  # a mistake there shows before a long load
        loading = asyncio.create_task(asyncio.to_thread(load_text, self.config.engine.model))
        try:  # both at once: each may take seconds
            self.metrics.model = await self.client.start()
            text = await loading
        except (OSError, ValueError) as error:
            raise StartError(f"no tokenizer for {self.config.engine.model!r}: {error}") from error
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        self._start_metrics()
        await self._start_grpc(text, interceptors, identity)
        supervision = supervise(self.client, self._engine_changed, self._restarts)
        self._tasks.append(asyncio.create_task(watch(self.live, self.config)))
        self._tasks.append(asyncio.create_task(watch_engine(self.client, self.config)))
        self._tasks.append(asyncio.create_task(supervision))
        self._tasks.append(asyncio.create_task(self.metrics.loop_lag.run()))

    async def wait_failed(self) -> None:
        """Waits for what the service cannot survive, and raises it (EngineCrashLoop)."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self, grace: float | None) -> None:
        """Drains for `grace` seconds (None: not at all), then ends the engine and the ports.

        New calls are UNAVAILABLE from here on; gRPC itself answers CANCELLED to the few that are
        on their way while it says goodbye to their connection.
        """
        if self._inference is not None:
            self._inference.draining = True
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        if self._grpc is not None:
            await self._drain(self._grpc, grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.stop(ENGINE_STOP_SECONDS)
        if self._inference is not None:
            self._inference.close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.shutdown)
            self._metrics_server.server_close()

    async def _drain(self, server: grpc.aio.Server, grace: float | None) -> None:
        stopping = asyncio.ensure_future(server.stop(grace))
        while grace and len(self.live) and not stopping.done():
            await asyncio.sleep(0.05)
        # A health watch never ends of itself; it must not make every drain last for ever.
        await server.stop(min(grace, LAST_CALLS_SECONDS) if grace else None)
        await stopping

    async def hurry(self) -> None:
        """Cuts a drain short that runs in another task."""
        if self._grpc is not None:
            await self._grpc.stop(None)
        self.client.kill()

    def _start_metrics(self) -> None:
        if self.config.metrics_port is None:
            return
        host, port = self.config.metrics_host, self.config.metrics_port
        try:
            self._metrics_server, _ = start_http_server(port, host, self._registry)
        except OSError as error:
            raise StartError(
                f"metrics cannot listen on {host}:{port} ({error.strerror}); choose another port, "
                "0 for any free one, or none"
            ) from error
        self.metrics_port = self._metrics_server.server_port

    async def _start_grpc(
        self, text: Text, interceptors: list[Any], identity: Reloading[Identity] | None
    ) -> None:
        server = grpc.aio.server(
            interceptors=[
                CallCounter(self.metrics.count_call, SERVICES.values()),  # sees every end
                *interceptors,
            ],
            options=grpc_options(self.config),
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        parts = (self.config, self.client, self.live, text, self.metrics)
        self._inference = InferenceServicer(*parts)
        self._health = health.aio.HealthServicer()
        control = ControlServicer(*parts, self._totals)
        servicers: list[tuple[Any, Any]] = [
            (sluice_pb2_grpc.add_InferenceServicer_to_server, self._inference),
            (sluice_pb2_grpc.add_ControlServicer_to_server, control),
            (health_pb2_grpc.add_HealthServicer_to_server, self._health),
        ]
        for add, servicer in servicers:
            add(servicer, server)
        names = (INFERENCE, CONTROL, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        try:
            if identity is None:
                self.port = server.add_insecure_port(self.config.listen)
            else:
                credentials = server_credentials(identity)
                self.port = server.add_secure_port(self.config.listen, credentials)
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {self.config.listen!r}; it must be host:port with a free port, "
                "0 for any"
            ) from error
        await self._set_health((CONTROL, INFERENCE, ""), serving=True)
        await server.start()
        self._grpc = server

    async def _engine_changed(self, up: bool) -> None:
        """Told by the supervisor; Control goes on answering without an engine."""
        if up:
            self.metrics.engine_restarts += 1
            self.metrics.model = self.client.model
        await self._set_health((INFERENCE, ""), serving=up)

    async def _set_health(self, names: Sequence[str], *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in names:
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)


def _access(config: ServiceConfig) -> tuple[list[Any], Reloading[Identity] | None]:
    """The interceptors of every call, and what TLS shows (None: plain text). No grpc objects yet.

    Raises:
        StartError: a file cannot be used.
    """
    interceptors: list[Any] = [GuardInterceptor()]
    file = config.tokens_file
    try:
        if file is not None:
            tenants = Reloading("tokens file", [file], lambda: read_tenants(file))
            interceptors.insert(0, AuthInterceptor(tenants))
            log.info("%d tenants", len(tenants.value))
        identity = read_identity(config)
    except (OSError, ValueError) as error:
        raise StartError(f"cannot serve as asked: {error}") from error
    if identity is None and config.host not in LOOPBACK:
        log.warning("%s is served without TLS: whoever listens in reads it", config.host)
    if file is None and config.host not in LOOPBACK:
        log.warning("%s is served without tokens: whoever reaches it may call", config.host)
    return interceptors, identity
