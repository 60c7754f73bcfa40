"""How commands end."""

import errno
import os

import pytest
import typer

from cli.failures import one_line_errors
from clients.errors import DataError


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (DataError("no such row"), "sluice: no such row\n", 2),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html"),
            "sluice: No space left on device: report.html\n",
            1,
        ),
        (OSError("odd"), "sluice: odd\n", 1),
        (KeyboardInterrupt(), "sluice: interrupted\n", 130),
    ],
)
def test_one_line(
    error: BaseException, said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, one_line_errors(2):
        raise error
    assert (ended.value.exit_code, capsys.readouterr().err) == (code, said)


def test_faults_of_our_own_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError
