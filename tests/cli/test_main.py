"""Options before the command: how clients get in."""

import os

import pytest
from typer.testing import CliRunner

from cli.main import app
from clients import access


def test_tls_options_reach_the_clients_through_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = (access.TLS_CA, access.TLS_CERT, access.TLS_KEY)
    for name in names:
        monkeypatch.setenv(name, "before")  # so that it is as it was afterwards
    options = ["--tls-ca", "a", "--tls-key", "c"]
    assert CliRunner().invoke(app, [*options, "version"]).exit_code == 0
    assert [os.environ[name] for name in names] == ["a", "before", "c"]


def test_there_is_no_option_for_a_token() -> None:
    """Whoever lists the processes of a machine would read it."""
    help_text = CliRunner().invoke(app, ["--help"]).output
    assert access.TOKEN in help_text
    assert "--token" not in help_text
