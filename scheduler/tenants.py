"""Who a request belongs to, and how much one such may have at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tenant:
    """A share of the engine. Limits count outputs, or KV tokens; None is no limit."""

    name: str = ""  # empty: everybody, where the service knows no tenants
    weight: float = 1.0  # of its share while others wait as well
    max_running: int | None = None  # at least 1; further outputs wait
    max_waiting: int | None = None  # one more is refused
    max_kv_tokens: int | None = None  # that its running outputs may come to hold; others wait
