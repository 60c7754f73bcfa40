"""sluice.v1.Control: what the server is, what it serves, how loaded it is, and Abort."""

import importlib.metadata
import time
from typing import Any

from engine.messages import BudgetClass, ModelInfo, PolicyInfo
from protos.sluice.v1 import sluice_pb2, sluice_pb2_grpc
from service.auth import caller
from service.config import ServiceConfig
from service.engine_client import EngineClient
from service.errors import Aborted, InvalidRequest, ModelLoading, Violation
from service.live import LiveRequests
from service.metrics import ServiceMetrics
from service.recent import Quantiles
from service.text_api import Text
from service.totals import LoadTotals
from service.validation import check_model

# Of the contract; raised with every change of meaning. 2: control tokens that are typed are text.
SCHEMA_REVISION = 2


class ControlServicer(sluice_pb2_grpc.ControlServicer):
    """Answers from what the front knows; only GetModelInfo needs that a model was ever loaded."""

    def __init__(
        self,
        config: ServiceConfig,
        client: EngineClient,
        live: LiveRequests,
        metrics: ServiceMetrics,
        totals: LoadTotals,
    ) -> None:
        self._config = config
        self._client = client
        self._live = live
        self._metrics = metrics
        self._totals = totals
        self._started = time.monotonic()
        self.text: Text | None = None  # set when it is loaded

    async def GetServerInfo(
        self, request: sluice_pb2.GetServerInfoRequest, context: Any
    ) -> sluice_pb2.ServerInfo:
        scheduler = self._config.engine.scheduler
        return sluice_pb2.ServerInfo(
            version=importlib.metadata.version("sluice"),
            schema_revision=SCHEMA_REVISION,
            uptime_seconds=time.monotonic() - self._started,
            max_running=scheduler.max_running,
            max_waiting=scheduler.max_waiting,
            max_request_seconds=self._config.max_request_seconds,
            engine_restarts=self._metrics.engine_restarts,
        )

    async def GetModelInfo(
        self, request: sluice_pb2.GetModelInfoRequest, context: Any
    ) -> sluice_pb2.ModelInfo:
        if self._client.model is None or self.text is None:
            raise ModelLoading
        check_model(request, self._client.model)
        return _model_info(self._client.model, self.text.has_chat_template)

    async def GetLoad(self, request: sluice_pb2.GetLoadRequest, context: Any) -> sluice_pb2.Load:
        load, now = self._totals.load, time.monotonic()
        return sluice_pb2.Load(
            running=load.running,
            waiting=load.waiting,
            blocks_used=load.blocks_used,
            blocks_free=load.blocks_free,
            blocks_cached=load.blocks_cached,
            blocks_promised=load.blocks_promised,
            tokens_resident=load.tokens_resident,
            generation_tokens_total=load.generation_tokens_total,
            tokens_evicted_total=load.tokens_evicted_total,
            preemptions_total=load.preemptions_total,
            tokens_pressed_total=load.tokens_pressed_total,
            tokens_elastic=load.tokens_elastic,
            tokens_per_second=self._totals.tokens_per_second(now),
            blocks_shared=load.blocks_shared,
            budget_classes=[_budget_class(counts) for counts in load.budget_classes],
            **{
                name: _latency(times.quantiles(now)) for name, times in self._metrics.recent.items()
            },
        )

    async def Abort(
        self, request: sluice_pb2.AbortRequest, context: Any
    ) -> sluice_pb2.AbortResponse:
        tenant = caller().name  # whose requests are the only ones that are there
        match request.WhichOneof("target"):
            case "request_id":
                stream = self._live.get(tenant, request.request_id)
                streams = [] if stream is None else [stream]
            case "all" if request.all:
                streams = self._live.of(tenant)
            case _:
                raise InvalidRequest(
                    [Violation("target", "got none; set request_id, or all to true")]
                )
        for stream in streams:
            self._live.end(stream, Aborted())
        return sluice_pb2.AbortResponse(aborted=len(streams))


def _budget_class(counts: BudgetClass) -> sluice_pb2.BudgetClass:
    return sluice_pb2.BudgetClass(
        max_tokens=counts.bound,
        running=counts.running,
        waiting=counts.waiting,
        blocks=counts.blocks,
        tokens_resident=counts.tokens,
    )


def _latency(recent: Quantiles) -> sluice_pb2.Latency:
    return sluice_pb2.Latency(count=recent.count, p50=recent.p50, p99=recent.p99)


def _model_info(model: ModelInfo, has_chat_template: bool) -> sluice_pb2.ModelInfo:
    return sluice_pb2.ModelInfo(
        name=model.name,
        architecture=model.architecture,
        max_sequence_tokens=model.max_sequence_tokens,
        vocabulary_size=model.vocabulary_size,
        block_size=model.block_size,
        total_blocks=model.total_blocks,
        kv_bytes_per_token=model.kv_bytes_per_token,
        dtype=model.dtype,
        device=model.device,
        kernels=model.kernels,
        has_chat_template=has_chat_template,
        default_kv_budget=model.default_kv_budget,
        max_kv_budget=model.max_kv_budget,
        default_policy=model.default_policy,
        policies=[_policy(policy) for policy in model.policies],
        eos_token_ids=model.eos_token_ids,
    )


def _policy(policy: PolicyInfo) -> sluice_pb2.PolicyInfo:
    return sluice_pb2.PolicyInfo(
        name=policy.name,
        summary=policy.summary,
        recent_share=policy.recent_share,
        needs=policy.needs,
        unavailable=policy.unavailable,
        settings=[
            sluice_pb2.PolicySetting(
                name=setting.name,
                description=setting.description,
                default_value=setting.default,
                minimum=setting.minimum,
                maximum=setting.maximum,
                integer=setting.integer,
            )
            for setting in policy.settings
        ],
    )
