"""The public face of the SDK.

    from clients.sdk import Chat, Client, KvBudget

    with Client("127.0.0.1:7700") as client:
        question = Chat.user("hop g;5979;4")  # a plain str would skip the chat template
        answer = client.complete(question, kv_budget=KvBudget(max_tokens=128))
        print(answer.text, answer.usage.kv_tokens_peak, answer.usage.kv_tokens_evicted)

`AsyncClient` is the same with `async with` and `await`. Errors are in `clients.errors`.
"""

from clients.async_client import AsyncClient
from clients.blocking import Client
from clients.completion import Completion, Event, Gatherer, Output, Timing
from clients.retry import NEVER, RetryPolicy
from clients.settings import Chat, KvBudget, Message, Request, Sampling, Stopping, TokenIds
from protos.sluice.v1.sluice_pb2 import Accepted, Finished, Progress, Tokens, Usage

__all__ = [
    "NEVER",
    "Accepted",
    "AsyncClient",
    "Chat",
    "Client",
    "Completion",
    "Event",
    "Finished",
    "Gatherer",
    "KvBudget",
    "Message",
    "Output",
    "Progress",
    "Request",
    "RetryPolicy",
    "Sampling",
    "Stopping",
    "Timing",
    "TokenIds",
    "Tokens",
    "Usage",
]
