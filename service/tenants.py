"""The tokens file: which bearer token belongs to which tenant, and what that tenant may have.

    [alice]
    tokens = ["..."]        # or sha256 = ["..."], the hexadecimal digest of a token
    weight = 2.0
    max_running = 8
    max_waiting = 100
    max_kv_tokens = 50000

Knows nothing of gRPC calls; service/auth.py does.
"""

import hmac
import re
import tomllib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from engine.messages import Tenant

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")
SHORTEST_TOKEN = 16  # characters; a guess must be hopeless
LIMITS = ("max_running", "max_waiting", "max_kv_tokens")
KEYS = {"tokens", "sha256", "weight", *LIMITS}
WEIGHTS = 0.001, 1000.0
ADVICE = "`openssl rand -hex 32` makes a good one"


class Tenants:
    """Tenants by token. Only digests of tokens are kept."""

    def __init__(self, tenants: dict[bytes, Tenant]) -> None:
        self._tenants = list(tenants.items())

    def __len__(self) -> int:
        return len({tenant.name for _, tenant in self._tenants})

    def find(self, token: bytes) -> Tenant | None:
        """The token's tenant. Takes as long for every token: the digest is compared with all of
        them, each in constant time."""
        digest, found = sha256(token).digest(), None
        for known, tenant in self._tenants:
            if hmac.compare_digest(known, digest):
                found = tenant
        return found


def read_tenants(file: str) -> Tenants:
    """Reads a tokens file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file; says where, and never repeats a token.
    """
    try:
        tables = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not TOML: {error}") from None
    tenants: dict[bytes, Tenant] = {}
    for name, table in tables.items():
        try:
            tenant, digests = _tenant(name, table), list(_digests(table))
        except ValueError as error:
            raise ValueError(f"{file}, tenant {name!r}: {error}") from None
        for digest in digests:
            if digest in tenants:
                raise ValueError(f"{file}, tenant {name!r}: a token of it is there twice")
            tenants[digest] = tenant
    if not tenants:
        raise ValueError(f"{file} has no tenant; without one nobody could call")
    return Tenants(tenants)


def _tenant(name: str, table: Any) -> Tenant:
    if not NAME.fullmatch(name):
        raise ValueError("names are 1 to 64 letters, digits, '_', '.' and '-'")
    if not isinstance(table, dict):
        raise ValueError("a table is wanted, with a list `tokens`")
    if unknown := sorted(table.keys() - KEYS):
        raise ValueError(f"got {unknown[0]!r}; known are {', '.join(sorted(KEYS))}")
    weight = table.get("weight", Tenant.weight)
    low, high = WEIGHTS
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not low <= weight <= high:
        raise ValueError(f"weight is {weight!r}; allowed are {low:g} to {high:g}")
    limits = {limit: table[limit] for limit in LIMITS if limit in table}
    for limit, value in limits.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{limit} is {value!r}; allowed are whole numbers from 1, or none")
    return Tenant(name, float(weight), **limits)


def _digests(table: dict[str, Any]) -> Iterator[bytes]:
    for token in _texts(table, "tokens"):
        if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
            raise ValueError(
                f"a token is shorter than {SHORTEST_TOKEN} characters or not printable ASCII; "
                f"{ADVICE}"
            )
        yield sha256(token.encode()).digest()
    for digest in _texts(table, "sha256"):
        if not DIGEST.fullmatch(digest):
            raise ValueError("an entry of sha256 is not 64 hexadecimal digits")
        yield bytes.fromhex(digest)
    if not table.get("tokens") and not table.get("sha256"):
        raise ValueError(f"it has no token; {ADVICE}")


def _texts(table: dict[str, Any], key: str) -> list[str]:
    texts = table.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} must be a list of texts")
    return texts
