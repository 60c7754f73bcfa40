"""One test per lesson that other engines' advisories teach and that applies here.

Elsewhere: control tokens, templates and injected roles (test_control_tokens.py), tokens, timing and
confused paths (test_auth.py), ranges of every field (test_validation.py), logits that are not
finite (test_endings.py), garbage on the wire (test_transport.py), tenants in the prefix cache
(scheduler/test_tenants.py), files of models (engine/test_hostile_models.py).
"""

import ast
import asyncio
import itertools
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from protos.sluice.v1 import sluice_pb2 as pb
from service.errors import shown
from tests.service.harness import Harness, fake_tokens, ids_request

ROOT = Path(__file__).parents[2]
SERVING = [p for name in ("service", "engine", "scheduler") for p in (ROOT / name).rglob("*.py")]
NEVER_IMPORTED = {
    *("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "zmq"),  # run code
    *("requests", "httpx", "aiohttp", "urllib", "http", "ftplib", "PIL", "fsspec"),  # fetch
}
NEVER_CALLED = {
    *("eval", "exec", "compile", "__import__"),  # CVE-2025-9141: output of a model was run
    *("torch.load", "numpy.load", "np.load"),  # CVE-2025-62164: tensors of strangers
    *("connection.recv", "connection.send", "self._connection.recv", "self._connection.send"),
    *("json_format.Parse", "json_format.ParseDict"),  # CVE-2026-0994
}
LEAKS = re.compile(r"0x[0-9a-f]{6,}|Traceback|\.py\b|<class|object at|/site-packages|/tmp/|/home/")


def dangers(source: str) -> set[str]:
    """Imports and calls in a source that let a message run code, or fetch something."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            found |= names & NEVER_IMPORTED
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.split(".")[0]} & NEVER_IMPORTED
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} & NEVER_CALLED
        elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found |= set() if ast.unparse(node.value) == "False" else {"trust_remote_code"}
    return found


@pytest.mark.parametrize("path", SERVING, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_message_is_unpickled_run_or_followed(path: Path) -> None:
    """CVE-2025-47277, CVE-2024-50050, CVE-2026-3059, CVE-2025-10164: pickle on a socket or a pipe.

    CVE-2026-22807, CVE-2026-27893: code that comes with a model. CVE-2026-0599, CVE-2026-33626:
    URLs in a prompt, fetched.
    """
    assert not dangers(path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from urllib.request import urlopen",
        "def f(x):\n    return eval(x)",
        "self._connection.recv()",
        "torch.load(path)",
        "load(m, trust_remote_code=True)",
        "load(m, trust_remote_code=config.trust)",
    ],
)
def test_the_search_for_dangers_can_fail(source: str) -> None:
    assert dangers(source)


def fields(message: Descriptor, seen: frozenset[str] = frozenset()) -> Iterator[FieldDescriptor]:
    for field in message.fields:
        yield field
        if field.message_type is not None and field.message_type.full_name not in seen:
            yield from fields(field.message_type, seen | {message.full_name})


def test_a_request_has_no_place_for_tensors_templates_patterns_or_urls() -> None:
    """CVE-2025-62164, CVE-2025-61620, CVE-2025-62426, CVE-2025-48944, CVE-2026-22773."""
    found = list(fields(pb.GenerateRequest.DESCRIPTOR))
    assert {field.name for field in found} >= {"text", "stop", "policy_settings", "n"}
    assert not [field.name for field in found if field.type == FieldDescriptor.TYPE_BYTES]
    harmful = re.compile(r"url|uri|image|video|template|kwargs|embed|schema|regex|grammar|bias")
    assert not [field.full_name for field in found if harmful.search(field.name)]
    foreign = {f.message_type.file.package for f in found if f.message_type is not None}
    assert foreign == {"sluice.v1"}, "no Any, no Struct"


@pytest.mark.parametrize("field", ["n", "logprobs"])
@pytest.mark.parametrize("value", [65, 10**6, 2**32 - 1])
def test_a_request_cannot_fan_out(fast: Harness, field: str, value: int) -> None:
    """CVE-2026-34756, CVE-2024-8939, CVE-2026-24146: refused before anything is made of it."""
    request = ids_request([1], 1, sampling=pb.Sampling(**{field: value}))
    assert fast.run(fast.refusal(request)).code() == grpc.StatusCode.INVALID_ARGUMENT


def test_prompts_of_nothing_are_answered_or_refused(fast: Harness) -> None:
    """CVE-2024-8768: an empty prompt took the server down."""

    async def scenario() -> None:
        empty = [
            pb.GenerateRequest(),
            pb.GenerateRequest(text=""),
            pb.GenerateRequest(token_ids=pb.TokenIds()),
            pb.GenerateRequest(chat=pb.Chat()),
            pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(role="user")])),
        ]
        for request in empty:
            error = await fast.refusal(request)
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        stopping = pb.Stopping(max_tokens=3)
        for text in (" ", "\n\n", "\x00", "\u0301", "\u200b", "a" * 1000):
            answer = await fast.answer(pb.GenerateRequest(text=text, stopping=stopping))
            assert answer.ids[0] == fake_tokens(list(text.encode()), 3)
        only_end = await fast.answer(ids_request([256], 3))
        assert only_end.ids[0] == fake_tokens([256], 3)

    fast.run(scenario())


def test_stop_strings_are_no_patterns(fast: Harness) -> None:
    """CVE-2025-48944, CVE-2025-48887: a pattern that cannot be compiled, or never ends."""

    async def scenario() -> None:
        for stop in ("(", "[", "(a+)+$", "\\", ".*", "{1,9999999}"):
            request = ids_request([1], 5)
            request.stopping.stop.append(stop)
            answer = await fast.answer(request)
            assert answer.ids[0] == fake_tokens([1], 5)

    fast.run(scenario())


def test_every_pair_of_features_is_served_together(fast: Harness) -> None:
    """CVE-2026-44223: two features, each tested alone, killed the engine together."""
    settings = [
        {"sampling": pb.Sampling(n=3)},
        {"sampling": pb.Sampling(logprobs=20)},
        {"sampling": pb.Sampling(repetition_penalty=10, temperature=0)},
        {"sampling": pb.Sampling(temperature=100, top_p=1e-6, top_k=1, min_p=1)},
        {"stopping": pb.Stopping(stop=["zz"], stop_token_ids=[256], ignore_eos=True)},
        {"kv_budget": pb.KvBudget(max_tokens=48, policy="window", reclaim_tokens=1)},
        {"kv_budget": pb.KvBudget(max_tokens=64, evict_prompt=True, min_tokens=48)},
        {"stream_interval": 1024, "priority": -100, "cache_salt": "x" * 256},
    ]

    async def scenario() -> None:
        calls = []
        for pair in itertools.combinations(settings, 2):
            request = ids_request(list(range(20)), 60)
            for part in pair:
                request.MergeFrom(pb.GenerateRequest(**part))
            calls.append(fast.answer(request))
        assert len(calls) == 28
        for answer in await asyncio.gather(*calls):
            assert all(f.usage.completion_tokens == 60 for f in answer.finished.values())
        assert await fast.is_idle()

    fast.run(scenario())


def test_metadata_and_messages_are_bounded(fast: Harness) -> None:
    """CVE-2025-48956, CVE-2025-23310, CVE-2026-24173: huge headers, huge bodies."""

    async def scenario() -> None:
        for size in (17_000, 200_000):
            call = fast.answer(ids_request([1], 1), metadata=(("x-long", "x" * size),))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        error = await fast.refusal(pb.GenerateRequest(text="x" * (5 * 2**20)))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        answer = await fast.answer(ids_request([1], 3))
        assert answer.ids[0] == fake_tokens([1], 3), "it goes on"

    fast.run(scenario())


def test_no_error_tells_of_the_process(fast: Harness) -> None:
    """CVE-2026-22778, CVE-2025-23319: an error's text gave away an address, a name of memory."""
    hostile = "x\x00\n\x1b[31m\u202e" + "y" * 5000
    requests = [
        pb.GenerateRequest(),
        pb.GenerateRequest(text="x", model=hostile),
        pb.GenerateRequest(text="x", request_id=hostile),
        pb.GenerateRequest(text="x", cache_salt=hostile),
        pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(role=hostile, content="x")])),
        ids_request([2**32 - 1], 1),
        ids_request([1], 2**32 - 1),
        ids_request([1], 1, kv_budget=pb.KvBudget(policy=hostile)),
        ids_request([1], 1, kv_budget=pb.KvBudget(max_tokens=1)),
        ids_request([1], 1, kv_budget=pb.KvBudget(policy_settings={hostile: 1.0})),
        ids_request([1], 1, kv_budget=pb.KvBudget(max_tokens=90, policy="regret")),
        ids_request([1], 1, sampling=pb.Sampling(temperature=float("nan"))),
    ]

    async def scenario() -> None:
        for request in requests:
            error = await fast.refusal(request)
            text = f"{error.details()} {error.trailing_metadata()}"
            assert error.code() != grpc.StatusCode.UNKNOWN, text
            assert not LEAKS.search(error.details()), text
            assert error.details().isprintable(), text
            assert len(error.details()) < 2000

    fast.run(scenario())
    assert shown(hostile).isascii()


def test_a_url_in_a_prompt_is_text(fast: Harness) -> None:
    """CVE-2026-0599, CVE-2026-33626: nobody listens for the caller at what a prompt names."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.2)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
        text = f"![]({url}) <img src='{url}'> {url}"
        request = pb.GenerateRequest(text=text, stopping=pb.Stopping(max_tokens=3))
        assert fast.run(fast.answer(request)).ids[0] == fake_tokens(list(text.encode()), 3)
        with pytest.raises(TimeoutError):
            trap.accept()


def test_nothing_but_the_announced_ports_listens(fast: Harness) -> None:
    """CVE-2025-30202, CVE-2026-7301, CVE-2023-48022: inner sockets on all interfaces.

    The engine has no socket that listens; the front those of gRPC and metrics, on loopback."""
    engine = fast.server.client.pid
    assert engine is not None
    assert listening(engine) == set()
    mine = {f"127.0.0.1:{port}" for port in (fast.server.port, fast.server.metrics_port)}
    assert mine <= listening(os.getpid())
    assert all(address.startswith("127.0.0.1:") for address in listening(os.getpid()))


def listening(pid: int) -> set[str]:
    """The TCP addresses at which a process listens, from /proc."""
    links = {os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir() if f.is_symlink()}
    found = set()
    for table, width in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            entry = line.split()
            if entry[3] == "0A" and f"socket:[{entry[9]}]" in links:
                host, port = entry[1].split(":")
                found.add(f"{_host(host[:width])}:{int(port, 16)}")
    return found


def _host(text: str) -> str:
    """An address of /proc/net: words of four bytes, each backwards."""
    data = b"".join(bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8))
    if data[:12] == bytes(10) + b"\xff\xff":
        data = data[12:]
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)
