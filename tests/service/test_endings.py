"""However a request ends, its stream says so and the engine holds nothing of it any more."""

import asyncio

import grpc
import pytest

from protos.sluice.v1 import sluice_pb2 as pb
from tests.service import engines
from tests.service.harness import (
    Harness,
    config,
    details,
    eventually,
    fake_tokens,
    ids_request,
)

PROMPT = list(range(40))
LONG = 2000  # tokens; at 20 ms each no test waits for them


async def ending(stream) -> grpc.aio.AioRpcError:
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call ended with OK")


def ignored(harness: Harness) -> int:
    """Messages that the engine got for requests it did not know, over all its time."""
    return harness.server.client._totals.load.ignored_events_total


@pytest.mark.parametrize("n", [1, 3])
def test_a_cancelled_request_frees_everything_and_is_cancelled_once(slow: Harness, n: int) -> None:
    async def scenario() -> None:
        before = ignored(slow)
        request = ids_request(PROMPT, LONG, sampling=pb.Sampling(n=n))
        stream = await slow.begin(request)
        assert (await slow.load()).blocks_used > 0
        stream.cancel()
        await eventually(slow.is_idle)
        await slow.answer(ids_request([1], 1))  # a later message: the cancels are through
        assert ignored(slow) == before

    slow.run(scenario())


def test_a_request_that_waits_can_be_cancelled(slow: Harness) -> None:
    async def scenario() -> None:
        streams = [await slow.begin(ids_request([i], LONG)) for i in range(4)]
        waiting = slow.inference.Generate(ids_request(PROMPT, 5))
        assert (await waiting.read()).HasField("accepted")
        assert (await slow.load()).waiting == 1
        for stream in (waiting, *streams):
            stream.cancel()
        await eventually(slow.is_idle)

    slow.run(scenario())


def test_the_callers_deadline_frees_everything(slow: Harness) -> None:
    async def scenario() -> None:
        error = await slow.refusal(ids_request(PROMPT, LONG), timeout=0.4)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(slow.is_idle)

    slow.run(scenario())


def test_the_servers_limit_holds_without_a_deadline(launch) -> None:
    harness = launch(config(0.02, max_request_seconds=0.5))

    async def scenario() -> None:
        stream = await harness.begin(ids_request(PROMPT, LONG, sampling=pb.Sampling(n=2)))
        error = await ending(stream)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "limit of 0.5 s per request" in error.details()
        await eventually(harness.is_idle)
        assert ignored(harness) == 0

    harness.run(scenario())


def test_an_engine_that_says_nothing_is_not_waited_for(launch, monkeypatch) -> None:
    monkeypatch.setattr("service.watch.OVERDUE_SECONDS", 0.1)
    harness = launch(config(max_request_seconds=0.3, heartbeat_seconds=0.2), target=engines.deaf)
    error = harness.run(harness.refusal(ids_request([1], 5)))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_logits_that_are_not_finite_end_the_request_as_internal(launch) -> None:
    harness = launch(config(), target=engines.not_finite)
    error = harness.run(harness.refusal(ids_request([1], 5, sampling=pb.Sampling(n=2))))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert error.details() == "the model's logits for this request were not finite"


def test_a_policy_without_what_it_needs_is_a_failed_precondition(launch) -> None:
    harness = launch(config(), target=engines.lacking)
    error = harness.run(harness.refusal(ids_request([1], 5)))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "make it: sluice calibrate"


def test_events_of_unknown_requests_are_ignored(launch) -> None:
    harness = launch(config(), target=engines.late)
    for _ in range(2):
        answer = harness.run(harness.answer(ids_request([1], 1)))
        assert answer.ids == {0: [65]}


def test_abort_ends_one_request(slow: Harness) -> None:
    async def scenario() -> None:
        abort = pb.AbortRequest(request_id="victim")
        assert (await slow.control.Abort(abort)).aborted == 0
        victim = await slow.begin(ids_request(PROMPT, LONG, request_id="victim"))
        other = asyncio.create_task(slow.answer(ids_request(PROMPT, 30, request_id="other")))
        assert (await slow.control.Abort(abort)).aborted == 1
        assert (await slow.control.Abort(abort)).aborted == 0
        error = await ending(victim)
        assert error.code() == grpc.StatusCode.ABORTED
        assert (await other).ids[0] == fake_tokens(PROMPT, 30)
        await eventually(slow.is_idle)

    slow.run(scenario())


def test_abort_ends_all_requests(slow: Harness) -> None:
    async def scenario() -> None:
        streams = [await slow.begin(ids_request([i], LONG)) for i in range(4)]
        waiting = slow.inference.Generate(ids_request(PROMPT, 5))
        await waiting.read()
        assert (await slow.control.Abort(pb.AbortRequest(all=True))).aborted == 5
        for stream in (*streams, waiting):
            assert (await ending(stream)).code() == grpc.StatusCode.ABORTED
        await eventually(slow.is_idle)

    slow.run(scenario())


@pytest.mark.parametrize("request_", [pb.AbortRequest(), pb.AbortRequest(all=False)])
def test_abort_needs_a_target(slow: Harness, request_: pb.AbortRequest) -> None:
    async def scenario() -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await slow.control.Abort(request_)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert details(caught.value) == (["target"], None)

    slow.run(scenario())


def test_a_live_request_id_is_refused_and_free_again_afterwards(slow: Harness) -> None:
    async def scenario() -> None:
        request = ids_request(PROMPT, LONG, request_id="mine")
        first = await slow.begin(request)
        error = await slow.refusal(request)
        assert error.code() == grpc.StatusCode.ALREADY_EXISTS
        await slow.control.Abort(pb.AbortRequest(request_id="mine"))
        short = ids_request(PROMPT, 2, request_id="mine")
        assert (await slow.answer(short)).ids[0] == fake_tokens(PROMPT, 2)
        await ending(first)
        await eventually(slow.is_idle)

    slow.run(scenario())


def test_a_full_queue_says_when_to_come_back(slow: Harness) -> None:
    async def scenario() -> None:
        streams = [await slow.begin(ids_request([i], LONG)) for i in range(4)]
        waiting = [slow.inference.Generate(ids_request([i], 1)) for i in range(8)]
        for stream in waiting:
            assert (await stream.read()).HasField("accepted")
        error = await slow.refusal(ids_request(PROMPT, 1))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        fields, retry = details(error)
        assert fields == []
        assert retry is not None
        assert retry > 0
        for stream in (*streams, *waiting):
            stream.cancel()
        await eventually(slow.is_idle)

    slow.run(scenario())


def test_a_client_that_never_reads_is_given_up(launch) -> None:
    """With flow control at 64 KiB a stream of large messages stops; its KV is freed all the same,
    and everybody else is served meanwhile."""
    harness = launch(config(write_stall_seconds=0.8, kv_blocks=4096, max_running=64))

    async def scenario() -> None:
        options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
        async with grpc.aio.insecure_channel(harness.address, options=options) as channel:
            generate = channel.unary_stream(
                "/sluice.v1.Inference/Generate",
                request_serializer=pb.GenerateRequest.SerializeToString,
                response_deserializer=pb.GenerateEvent.FromString,
            )
            request = ids_request([1], 25_000, request_id="silent", stream_interval=1)
            request.sampling.logprobs = 20
            request.sampling.n = 2
            stream = generate(request)
            assert (await stream.read()).HasField("accepted")
            live = harness.server.live

            async def given_up() -> bool:
                return live.get("", "silent") is None

            await eventually(given_up)
            assert (await harness.answer(ids_request([1], 3))).ids[0] == fake_tokens([1], 3)
            await eventually(harness.is_idle)
            error = await ending(stream)  # it reads again, and learns why
            assert error.code() == grpc.StatusCode.ABORTED
            assert "took no message for 0.8 s" in error.details()

    harness.run(scenario())
