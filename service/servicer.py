"""Inference.Generate: from a gRPC call to a request in the engine and back."""

import asyncio
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from engine.messages import ModelInfo
from protos.sluice.v1 import sluice_pb2, sluice_pb2_grpc
from service.account import account_of
from service.auth import caller
from service.config import ServiceConfig
from service.delivery import Delivery
from service.engine_client import EngineClient
from service.errors import (
    Draining,
    EngineDown,
    InvalidRequest,
    ModelLoading,
    ServiceError,
    Violation,
)
from service.live import LiveRequests
from service.metrics import ServiceMetrics
from service.output import make_outputs
from service.request_log import RequestLog
from service.stream import RequestStream
from service.submission import make_submit, outputs_of
from service.text_api import PromptError, Text
from service.tracing import Traces
from service.validation import check_prompt, check_request


class InferenceServicer(sluice_pb2_grpc.InferenceServicer):
    """Serves sluice.v1.Inference; ServiceErrors it raises become statuses in service/guard.py."""

    def __init__(
        self,
        config: ServiceConfig,
        client: EngineClient,
        live: LiveRequests,
        metrics: ServiceMetrics,
        traces: Traces | None,
    ) -> None:
        self._config = config
        self._client = client
        self._live = live
        self._metrics = metrics
        self._traces = traces
        self._log = RequestLog(prompts=config.log_prompts)
        self._tokenising = ThreadPoolExecutor(1, thread_name_prefix="tokenise")
        self.text: Text | None = None  # set when it is loaded; requests are refused until then
        self.draining = False

    async def Generate(self, request: sluice_pb2.GenerateRequest, context: Any) -> None:
        """Streams events through context.write(): a coroutine, because the cancellation of a
        generator may arrive as GeneratorExit."""
        arrival = time.monotonic()
        stream: RequestStream | None = None
        try:
            model, text = self._check(request)
            stream = self._open(request, context, arrival)
            self._live.add(stream)
            prompt = await self._tokenise(request, model, text)
            submit = make_submit(request, stream.key, prompt, stream.deadline, caller())
            stops = tuple(request.stopping.stop)
            outputs = make_outputs(submit.n, prompt, stops, text)
            delivery = Delivery(stream, outputs, self._client, context)
            async with self._client.quarantine.turn(submit, stream):
                stream.submitted = time.monotonic()
                self._client.submit(stream, submit)
                await delivery.run(submit.sampling.seed, submit.resumed)
        except ServiceError as error:
            if stream is None or stream.accepted is None:
                self._metrics.count_refused(error.code.name)
            raise
        finally:
            # Whatever ends this call, a hang-up included, the engine forgets the request.
            if stream is not None:
                self._live.remove(stream)
                if stream.accepted is not None:
                    self._metrics.observe_request(time.monotonic() - arrival)
            self._account(request, stream, arrival, context)

    def close(self) -> None:
        """Ends the tokenising thread."""
        self._tokenising.shutdown(wait=False, cancel_futures=True)

    def _account(
        self,
        request: sluice_pb2.GenerateRequest,
        stream: RequestStream | None,
        arrival: float,
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Tells log and traces of a request that has just ended, with the error that is raised."""
        model = self._client.model.name if self._client.model else None
        tenant = caller().name or None
        error = sys.exception()
        account = account_of(request, stream, arrival, error, model=model, tenant=tenant)
        self._log.ended(request, account)
        if self._traces is not None:
            self._traces.ended(request, account, context.invocation_metadata() or ())

    def _check(self, request: sluice_pb2.GenerateRequest) -> tuple[ModelInfo, Text]:
        if self.draining:
            raise Draining
        if self._client.model is None or self.text is None:
            raise ModelLoading
        if not self._client.up:
            raise EngineDown
        check_request(request, self._client.model, self._config.max_prompt_characters)
        return self._client.model, self.text

    def _open(
        self, request: sluice_pb2.GenerateRequest, context: grpc.aio.ServicerContext, now: float
    ) -> RequestStream:
        asked = context.time_remaining()  # None without a deadline
        limit = self._config.max_request_seconds
        stream = RequestStream(
            self._client.next_key(),
            request.request_id if request.HasField("request_id") else uuid.uuid4().hex,
            n=outputs_of(request),
            interval=request.stream_interval if request.HasField("stream_interval") else 1,
            arrival=now,
            deadline=now + (limit if asked is None else min(asked, limit)),
        )
        stream.tenant = caller().name
        return stream

    async def _tokenise(
        self, request: sluice_pb2.GenerateRequest, model: ModelInfo, text: Text
    ) -> list[int]:
        """The prompt's ids, encoded in a thread of their own.

        Raises:
            InvalidRequest: it is no prompt for this model.
        """
        field = str(request.WhichOneof("input"))
        if field == "token_ids":
            return list(request.token_ids.ids)
        if field == "chat" and not text.has_chat_template:
            raise InvalidRequest(
                [Violation("chat", f"{model.name} has no chat template; send text or token_ids")]
            )
        loop = asyncio.get_running_loop()
        try:
            prompt = await loop.run_in_executor(self._tokenising, _encode, request, text)
        except PromptError as error:
            raise InvalidRequest([Violation(field, str(error))]) from error
        check_prompt(field, prompt, model)
        return prompt


def _encode(request: sluice_pb2.GenerateRequest, text: Text) -> list[int]:
    if request.HasField("text"):
        return text.encode(request.text)
    messages = [{"role": m.role, "content": m.content} for m in request.chat.messages]
    return text.encode_chat(messages)
