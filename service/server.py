"""The composition root: puts the parts together, starts and stops them in the right order.

The engine is spawned before any grpc object exists; then the ports open, and answer probes while
the model loads. Exactly one asyncio loop of the process touches grpc.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
)

from engine.process import run_engine
from protos.sluice.v1 import sluice_pb2, sluice_pb2_grpc
from service.calls import CallCounter
from service.config import ServiceConfig
from service.control import ControlServicer
from service.engine_client import EngineClient
from service.engine_link import EngineTarget
from service.engine_watch import watch_engine
from service.live import LiveRequests
from service.metrics import ServiceMetrics
from service.ports import (
    MAX_CALLS,
    Access,
    StartError,
    add_port,
    grpc_options,
    read_access,
    serve_metrics,
)
from service.servicer import InferenceServicer
from service.supervisor import RestartPolicy, supervise
from service.text_api import Text, load_text
from service.totals import LoadTotals
from service.tracing import Traces
from service.watch import watch

log = logging.getLogger(__name__)

SERVICES = sluice_pb2.DESCRIPTOR.services_by_name
CONTRACTS = (sluice_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
INFERENCE, CONTROL = (SERVICES[name].full_name for name in ("Inference", "Control"))
ENGINE_STOP_SECONDS = 5.0
LAST_CALLS_SECONDS = 1.0  # for calls that are no requests, once the last request has ended


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
        self._access: Access | None = None
        self._grpc: grpc.aio.Server | None = None
        self._health: Any = None
        self._inference: InferenceServicer | None = None
        self._traces: Traces | None = None
        self._metrics_server: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def model_name(self) -> str:
        return self.client.model.name if self.client.model else self.config.engine.served_name

    async def start(self) -> None:
        """Returns when requests can be served; probes are answered long before.

        Raises:
            EngineFailed: the engine ended before it was ready.
            StartError: the tokenizer, the tokens, TLS or the collector of traces cannot be used, or
                an address is taken.
        """
        self._access = read_access(self.config)
        self.client.spawn()
        self._metrics_server = serve_metrics(self.config, self._registry)
        if self._metrics_server is not None:
            self.metrics_port = self._metrics_server.server_port
        inference, control = await self._start_grpc(self._access)
        log.info("%s:%d is open; it serves once the model is loaded", self.config.host, self.port)
        inference.text = control.text = await self._load()
        await self._set_health((CONTROL, INFERENCE, ""), serving=True)
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
        endings = [self.client.stop(ENGINE_STOP_SECONDS)]
        if self._traces is not None:
            endings.append(self._traces.close())
        await asyncio.gather(*endings)
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

    def reload(self) -> None:
        """Looks at the files of tokens and TLS now; calls and handshakes do so too."""
        log.info("looking for changes in the files of tokens and TLS")
        for file in self._access.files if self._access else []:
            file.look()

    async def hurry(self) -> None:
        """Cuts a drain short that runs in another task."""
        if self._grpc is not None:
            await self._grpc.stop(None)
        self.client.kill()

    async def _start_grpc(self, access: Access) -> tuple[InferenceServicer, ControlServicer]:
        """Opens the port; health says NOT_SERVING, and the servicers have no text yet."""
        server = grpc.aio.server(
            interceptors=[
                CallCounter(self.metrics.count_call, _services()),  # sees every end
                *access.interceptors,
            ],
            options=grpc_options(self.config),
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        self.port = add_port(server, self.config, access.identity)
        self._traces = self._open_traces()
        parts = (self.config, self.client, self.live, self.metrics)
        self._inference = InferenceServicer(*parts, self._traces)
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
        await self._set_health((CONTROL, INFERENCE, ""), serving=False)
        await server.start()
        self._grpc = server
        return self._inference, control

    def _open_traces(self) -> Traces | None:
        endpoint = self.config.otlp_endpoint
        if endpoint is None:
            return None
        try:
            return Traces(endpoint, self.config.host, self.port)
        except ImportError as error:
            raise StartError(
                f"otlp_endpoint is {endpoint} and {error.name} is not installed; install it with "
                "pip install -c constraints.txt -e '.[otel]', or leave the option out"
            ) from error
        except (ValueError, RuntimeError) as error:
            raise StartError(f"cannot send traces to {endpoint}: {error}") from error

    async def _load(self) -> Text:
        """Waits for the engine and its tokenizer at once: each may take seconds."""
        engine = asyncio.create_task(self.client.ready())
        text = asyncio.wrap_future(_load_text(self.config.engine.model))
        try:
            self.metrics.model, loaded = await asyncio.gather(engine, text)
        except (OSError, ValueError) as error:
            raise StartError(f"no tokenizer for {self.config.engine.model!r}: {error}") from error
        finally:
            engine.cancel()
            text.cancel()
            await asyncio.gather(engine, text, return_exceptions=True)
        return loaded

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


def _services() -> list[Any]:
    """The descriptors of all services that are served."""
    return [service for contract in CONTRACTS for service in contract.services_by_name.values()]


def _load_text(model: str) -> Future[Text]:
    """Loads in a thread that no end waits for: imports alone take seconds, a hub that does not
    answer a minute."""
    future: Future[Text] = Future()
    future.set_running_or_notify_cancel()

    def load() -> None:
        try:
            future.set_result(load_text(model))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=load, name="load-text", daemon=True).start()
    return future
