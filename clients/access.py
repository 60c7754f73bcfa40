"""How a client gets in: a bearer token and TLS, from the caller or from the environment.

The token is never part of an error, a log line or a repr.
"""

import os
from pathlib import Path

import grpc

from clients.errors import DataError

TOKEN = "SLUICE_TOKEN"
TLS_CA, TLS_CERT, TLS_KEY = "SLUICE_TLS_CA", "SLUICE_TLS_CERT", "SLUICE_TLS_KEY"
HEADER = "authorization"


def token_metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """Metadata that carries `token`, or that of the environment for None; none for "".

    Raises:
        DataError: it cannot be sent.
    """
    token = os.environ.get(TOKEN, "") if token is None else token
    token = token.strip()  # a file's last line end is no part of it
    if not token.isascii() or not token.isprintable():
        raise DataError(f"the token (token=, or {TOKEN}) has characters that are not ASCII")
    return ((HEADER, f"Bearer {token}"),) if token else ()


def channel_credentials() -> grpc.ChannelCredentials | None:
    """TLS as the environment has it: the CA to trust, and what to show if asked; None for none.

    Raises:
        DataError: the variables do not go together, or a file cannot be read.
    """
    ca, certificate, key = (os.environ.get(name) or None for name in (TLS_CA, TLS_CERT, TLS_KEY))
    if ca is None and certificate is None and key is None:
        return None
    if ca is None or (certificate is None) != (key is None):
        raise DataError(
            f"TLS needs {TLS_CA} (--tls-ca), and {TLS_CERT} with {TLS_KEY} (--tls-cert, --tls-key) "
            "where the server asks for a certificate"
        )
    return grpc.ssl_channel_credentials(_read(ca), _read(key), _read(certificate))


def _read(file: str | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
