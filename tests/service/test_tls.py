"""TLS and mTLS on the real port, with certificates made here by openssl."""

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from clients import access
from clients.errors import CallError, DataError
from clients.sdk import NEVER, AsyncClient
from service.server import Server, StartError
from tests.service.harness import Harness, config

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs the command openssl")
SUBJECT = "subjectAltName=IP:127.0.0.1"


def openssl(*arguments: str) -> None:
    assert OPENSSL is not None
    subprocess.run([OPENSSL, *arguments], check=True, capture_output=True)


class Authority:
    """A CA of one test, and what it has signed."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.file = folder / f"{name}.pem"
        openssl("req", "-x509", *new_key(folder / f"{name}.key"), "-subj", f"/CN={name}",
                "-days", "2", "-out", str(self.file))  # fmt: skip

    def signs(self, subject: str) -> tuple[str, str]:
        """A fresh certificate and its key."""
        stem = self.folder / f"{subject}-{self.name}"
        certificate, key = stem.with_suffix(".crt"), stem.with_suffix(".key")
        openssl("req", "-x509", *new_key(key), "-subj", f"/CN={subject}", "-days", "2",
                "-CA", str(self.file), "-CAkey", str(self.folder / f"{self.name}.key"),
                "-addext", SUBJECT, "-out", str(certificate))  # fmt: skip
        return str(certificate), str(key)


def new_key(file: Path) -> tuple[str, ...]:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    return (*curve, "-keyout", str(file))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


def shown_by(harness: Harness) -> bytes:
    """The certificate that a new connection is shown."""
    return ssl.get_server_certificate(("127.0.0.1", harness.server.port)).encode()


async def calls(harness: Harness) -> str:
    """Calls with what the environment says; OK or the code."""
    async with AsyncClient(harness.address, retry=NEVER) as client:
        try:
            await client.server_info(timeout=20)
        except CallError as error:
            return str(error.code.name)
    return "OK"


def test_a_client_of_the_right_ca_is_served_over_tls(
    authority: Authority, launch: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = authority.signs("server")
    harness = launch(config(tls_cert=certificate, tls_key=key))
    assert harness.run(calls(harness)) == "UNAVAILABLE", "plain text"
    monkeypatch.setenv(access.TLS_CA, str(authority.file))
    assert harness.run(calls(harness)) == "OK"
    monkeypatch.setenv(access.TLS_CA, str(Authority(authority.folder, "other").file))
    assert harness.run(calls(harness)) == "UNAVAILABLE"


def test_with_a_client_ca_only_its_clients_are_served(
    authority: Authority, launch: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = authority.signs("server")
    clients = Authority(authority.folder, "clients")
    harness = launch(config(tls_cert=certificate, tls_key=key, tls_client_ca=str(clients.file)))
    monkeypatch.setenv(access.TLS_CA, str(authority.file))
    assert harness.run(calls(harness)) == "UNAVAILABLE", "no certificate"
    for signer, outcome in ((authority, "UNAVAILABLE"), (clients, "OK")):
        shown = signer.signs("client")
        monkeypatch.setenv(access.TLS_CERT, shown[0])
        monkeypatch.setenv(access.TLS_KEY, shown[1])
        assert harness.run(calls(harness)) == outcome


def test_a_renewed_certificate_counts_at_once_and_open_connections_live_on(
    authority: Authority,
    launch: Callable[..., Harness],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    certificate, key = authority.signs("server")
    harness = launch(config(tls_cert=certificate, tls_key=key))
    monkeypatch.setenv(access.TLS_CA, str(authority.file))

    async def scenario() -> None:
        async with AsyncClient(harness.address, retry=NEVER) as early:
            await early.server_info()
            old = await asyncio.to_thread(shown_by, harness)
            assert old.split() == Path(certificate).read_bytes().split()
            fresh = authority.signs("renewed")
            os.replace(fresh[1], key)
            os.replace(fresh[0], certificate)
            new = await asyncio.to_thread(shown_by, harness)
            assert new.split() == Path(certificate).read_bytes().split() != old.split()
            Path(certificate).write_text("no certificate")
            assert await asyncio.to_thread(shown_by, harness) == new, "the last good one"
            await early.server_info()
            assert await calls(harness) == "OK"

    harness.run(scenario())
    assert caplog.text.count("TLS certificate not reloaded") == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tls_cert": "server"}, "both a certificate and its key"),
        ({"tls_key": "server"}, "both a certificate and its key"),
        ({"tls_client_ca": "ca"}, "both a certificate and its key"),
        ({"tls_cert": "none", "tls_key": "server"}, "No such file"),
        ({"tls_cert": "server", "tls_key": "ca"}, "not PEM files"),
        ({"tls_cert": "server", "tls_key": "server", "tls_client_ca": "key"}, "not PEM files"),
    ],
)
def test_files_that_cannot_be_used_are_a_clear_error(
    authority: Authority, runner: asyncio.Runner, options: dict[str, str], complaint: str
) -> None:
    certificate, key = authority.signs("server")
    names = {
        "tls_cert": {"server": certificate, "none": f"{certificate}.none"},
        "tls_key": {"server": key, "ca": str(authority.folder / "ca.key")},
        "tls_client_ca": {"ca": str(authority.file), "key": key},
    }
    given = {option: names[option][name] for option, name in options.items()}

    async def scenario() -> None:
        server = Server(config(**given))
        with pytest.raises(StartError, match=complaint):
            await server.start()
        await server.stop(None)

    runner.run(scenario())


def test_a_client_says_what_its_environment_lacks(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert access.channel_credentials() is None
    monkeypatch.setenv(access.TLS_CERT, str(authority.file))
    with pytest.raises(DataError, match="TLS needs SLUICE_TLS_CA"):
        access.channel_credentials()
    monkeypatch.setenv(access.TLS_CA, str(authority.file))
    with pytest.raises(DataError, match="SLUICE_TLS_KEY"):
        access.channel_credentials()
    monkeypatch.setenv(access.TLS_KEY, str(authority.folder / "none"))
    with pytest.raises(DataError, match="cannot read"):
        access.channel_credentials()
    monkeypatch.setenv(access.TLS_KEY, str(authority.folder / "ca.key"))
    assert isinstance(access.channel_credentials(), grpc.ChannelCredentials)
