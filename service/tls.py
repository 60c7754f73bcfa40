"""TLS of the gRPC port. Certificates are looked at in every handshake, so a renewed one counts at
once; connections that are open keep the one they began with."""

import ssl
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from service.config import ServiceConfig
from service.reloading import Reloading


class Identity(NamedTuple):
    """PEM texts: what the server shows, and who may sign what clients show."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


def read_identity(config: ServiceConfig) -> Reloading[Identity] | None:
    """What the configuration's files hold; None where TLS is not configured.

    Raises:
        OSError, ValueError: a file is missing or cannot be used.
    """
    certificate, key, client_ca = config.tls_cert, config.tls_key, config.tls_client_ca
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise ValueError("TLS needs both a certificate and its key: --tls-cert and --tls-key")
    files = [certificate, key] if client_ca is None else [certificate, key, client_ca]
    return Reloading("TLS certificate", files, lambda: _read(certificate, key, client_ca))


def server_credentials(identity: Reloading[Identity]) -> Any:
    """grpc.ServerCredentials that follow the files; they ask clients for certificates if there is a
    CA for these."""
    shown = identity.value

    def configuration() -> Any:
        """Called in every handshake, on a thread of grpc; None means no change."""
        nonlocal shown
        if (now := identity.value) is shown:
            return None
        shown = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        configuration,
        require_client_authentication=shown.client_ca is not None,
    )


def _read(certificate: str, key: str, client_ca: str | None) -> Identity:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:  # grpc itself would take anything, and then fail in every handshake
        context.load_cert_chain(certificate, key, password=lambda: "")
        if client_ca is not None:
            context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        files = ", ".join(file for file in (certificate, key, client_ca) if file is not None)
        raise ValueError(
            f"{files}: not PEM files of a certificate, its unencrypted key and a CA "
            f"({error.reason})"
        ) from None
    ca = None if client_ca is None else Path(client_ca).read_bytes()
    return Identity(Path(certificate).read_bytes(), Path(key).read_bytes(), ca)


def _configuration(identity: Identity) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.certificate)], root_certificates=identity.client_ca
    )
