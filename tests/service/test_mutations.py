"""Messages that were changed on their way, through the real handler: refused, or served."""

import asyncio
import random
from collections import Counter
from contextlib import suppress

import grpc
import pytest

from protos.sluice.v1 import sluice_pb2 as pb
from tests.service.harness import Harness, config, eventually, fake_tokens, ids_request
from tests.service.scale import SCALE, SEED

MESSAGES = 2000 * SCALE
AT_ONCE = 50
PATH = "/sluice.v1.Inference/Generate"
ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.NOT_FOUND,  # another model
    grpc.StatusCode.ALREADY_EXISTS,  # another request's id
    grpc.StatusCode.DEADLINE_EXCEEDED,  # ours, which is short
}


def whole() -> list[bytes]:
    """Requests that use every field."""
    sampling = pb.Sampling(temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, seed=7, n=2, logprobs=2)
    stopping = pb.Stopping(max_tokens=9, stop=["ab", "c"], stop_token_ids=[4], ignore_eos=True)
    budget = pb.KvBudget(
        max_tokens=32, policy="window", recent_tokens=8, sink_tokens=1, reclaim_tokens=8,
        evict_prompt=True, min_tokens=24,
    )  # fmt: skip
    common = {
        "sampling": sampling,
        "stopping": stopping,
        "kv_budget": budget,
        "priority": 1,
        "stream_interval": 3,
        "cache_salt": "s",
        "request_id": "r",
        "model": "fake",
    }
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hé")])
    resumed = ids_request([1, 2], 9, resumed=pb.TokenIds(ids=[3, 4]))
    return [
        pb.GenerateRequest(text="hello", **common).SerializeToString(),
        pb.GenerateRequest(chat=chat, **common).SerializeToString(),
        ids_request([1, 2, 3], 9).SerializeToString(),
        resumed.SerializeToString(),
    ]


def mutated(message: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut out, doubled or put in, a few times."""
    data = bytearray(message)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randint(1, 8)]
            case 2:
                data[at:at] = data[at : at + rng.randint(1, 16)]
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 6))
            case _:
                data[at:] = b""
    return bytes(data)


@pytest.mark.timeout(120 * SCALE)
def test_changed_messages_are_refused_or_served(launch) -> None:
    harness: Harness = launch(
        config(kv_blocks=512, max_running=64, max_waiting=256, max_sequence_tokens=64)
    )
    rng = random.Random(SEED)
    templates = whole()
    seen: Counter[grpc.StatusCode] = Counter()

    async def send(data: bytes) -> None:
        call = harness.channel.unary_stream(PATH)(data, timeout=2.0)
        with suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass
        code = await call.code()
        assert code in ALLOWED, (code, await call.details(), data)
        seen[code] += 1

    async def scenario() -> None:
        for _ in range(0, MESSAGES, AT_ONCE):
            batch = [mutated(rng.choice(templates), rng) for _ in range(AT_ONCE)]
            await asyncio.gather(*map(send, batch))
        assert (await harness.answer(ids_request([1], 5))).ids[0] == fake_tokens([1], 5)
        await eventually(harness.is_idle)
        info = await harness.control.GetServerInfo(pb.GetServerInfoRequest())
        assert info.engine_restarts == 0

    harness.run(scenario())
    assert seen[grpc.StatusCode.INVALID_ARGUMENT] > MESSAGES / 10
    assert seen[grpc.StatusCode.OK] > MESSAGES / 50, "mutations that hit nothing tell nothing"
