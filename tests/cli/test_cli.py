"""The `sluice` command: what it prints where, how it ends, and that it starts fast."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest

from cli.main import COMMANDS
from protos.sluice.v1 import sluice_pb2 as pb
from tests.cli.command import INTERRUPTIBLE, sluice
from tests.clients.fake_sluice import Failure, FakeSluice, echo, model_info, serving

ROOT = Path(__file__).parents[2]
SLUICE = [sys.executable, "-m", "cli.main"]


def test_version() -> None:
    code, out, _ = sluice("version")
    assert code == 0
    assert re.fullmatch(r"sluice \d+\.\d+\.\d+\n", out)


def test_help_lists_every_command() -> None:
    code, out, _ = sluice("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize(
    "name",
    ["generate", "sweep", "score", "load", "policies", "top", "demo", "calibrate", "version"],
)
def test_commands_do_not_load_what_they_do_not_need(name: str) -> None:
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom cli.main import app\n"
        f"assert CliRunner().invoke(app, [{name!r}, '--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'triton', 'numba', 'matplotlib', 'numpy', 'service'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


# generate


def test_generate_streams_text_and_shows_the_kv_numbers_apart() -> None:
    fake = FakeSluice()
    with serving(fake) as target:
        code, out, err = sluice(
            "generate", "abc", "--server", target, "--kv-budget", "20", "--policy", "window",
            "--max-tokens", "9", "--temperature", "0", "--seed", "4", "--setting", "alpha=0.5",
        )  # fmt: skip
    assert code == 0
    assert out == echo("abc") + "\n"
    [request] = fake.requests
    assert request.text == "abc"
    assert request.kv_budget == pb.KvBudget(
        max_tokens=20, policy="window", policy_settings={"alpha": 0.5}
    )
    assert request.sampling == pb.Sampling(temperature=0, seed=4)
    assert request.stopping == pb.Stopping(max_tokens=9)
    assert "KV budget 20, window, seed 4" in err
    for name, value in [("KV tokens, most", 20), ("KV tokens evicted", len(echo("abc")) - 17)]:
        assert re.search(rf"{name}\W+{value}\b", err), err


def test_generate_takes_a_floor_and_shows_the_range() -> None:
    fake = FakeSluice()
    with serving(fake) as target:
        code, _, err = sluice(
            "generate", "abc", "--server", target, "--kv-budget", "20", "--floor", "12"
        )
    assert code == 0
    assert fake.requests[0].kv_budget == pb.KvBudget(max_tokens=20, min_tokens=12)
    assert "KV budget 12 to 20" in err


def test_generate_sends_nothing_that_was_not_asked_for() -> None:
    fake = FakeSluice()
    with serving(fake) as target:
        sluice("generate", "abc", "--server", target)
    [request] = fake.requests
    assert request == pb.GenerateRequest(
        text="abc", sampling=pb.Sampling(), stopping=pb.Stopping(), kv_budget=pb.KvBudget()
    )


@pytest.mark.parametrize(
    ("template", "options", "chat"),
    [(True, [], True), (False, [], False), (True, ["--text"], False), (False, ["--chat"], True)],
)
def test_generate_chats_where_there_is_a_template(
    template: bool, options: list[str], chat: bool
) -> None:
    fake = FakeSluice(info=model_info(has_chat_template=template))
    with serving(fake) as target:
        sluice("generate", "abc", "--server", target, *options)
    assert fake.requests[0].WhichOneof("input") == ("chat" if chat else "text")


def test_generate_prints_several_outputs_one_by_one() -> None:
    with serving(FakeSluice()) as target:
        code, out, _ = sluice("generate", "abc", "--server", target, "--n", "2")
    assert code == 0
    assert out == f"[0] {echo('abc')}\n[1] {echo('abc')}\n"


def test_generate_fails_in_one_line_that_names_the_field() -> None:
    message = "got 3, want at least 53"
    failure = Failure(grpc.StatusCode.INVALID_ARGUMENT, message, "kv_budget.max_tokens")
    with serving(FakeSluice(failures=[failure])) as target:
        code, out, err = sluice("generate", "abc", "--server", target)
    assert (code, out) == (1, "")
    assert "kv_budget.max_tokens" in err or message in err
    assert err.count("\n") == 1


def test_nobody_there_is_one_line_too() -> None:
    code, _, err = sluice("generate", "abc", "--server", "127.0.0.1:1")
    assert code == 1
    assert err.startswith("sluice: UNAVAILABLE")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "a", "--kv-budget", "many"],
        ["generate", "a", "--setting", "alpha"],
        ["generate", "a", "--nonsense"],
        ["nonsense"],
        ["sweep"],
        ["sweep", "--out", "x", "--datasets", "hop", "--prompt", "y"],
        ["sweep", "--out", "x", "--datasets", "nope"],
        ["sweep", "--out", "x", "--datasets", "hop", "--sampling", "y"],
        ["sweep", "--out", "x", "--datasets", "hop", "--budgets", "many"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    code, out, err = sluice(*arguments)
    assert code == 2
    assert out == ""
    assert err


def test_ctrl_c_cancels_the_request() -> None:
    fake = FakeSluice(hold=threading.Event())
    with serving(fake) as target:
        process = subprocess.Popen(
            [*INTERRUPTIBLE, "generate", "abc", "--server", target],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not fake.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err == "sluice: interrupted\n"
        assert fake.hung_up.wait(30)


# policies


def test_policies_shows_what_the_server_offers_and_lacks() -> None:
    setting = pb.PolicySetting(
        name="window", description="newest queries", default_value=16, minimum=1, maximum=32
    )
    fake = FakeSluice(
        info=model_info(
            policies=[
                pb.PolicyInfo(name="r_kv", summary="less duplicates", settings=[setting]),
                pb.PolicyInfo(name="dynts", needs="a file", unavailable="sluice calibrate [x]"),
            ],
            default_policy="r_kv",
        )
    )
    with serving(fake) as target:
        code, out, _ = sluice("policies", "--server", target)
    assert code == 0
    lines = [re.sub(r"\s+", " ", line).strip() for line in out.splitlines()]
    assert "r_kv (default) less duplicates nothing" in lines
    assert "window newest queries 16 (1 to 32)" in lines
    assert "dynts a file" in lines
    assert "unavailable: sluice calibrate [x]" in lines


def test_policies_without_a_server_is_one_clear_line() -> None:
    code, out, err = sluice("policies", "--server", "127.0.0.1:1")
    assert (code, out) == (1, "")
    assert err.startswith("sluice: UNAVAILABLE")


# demo


def test_the_demo_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.demo.MODELS_DIRECTORY", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = (
        "import clients.demo, pathlib\n"
        f"clients.demo.run_demo.__defaults__ = (pathlib.Path({str(tmp_path)!r}),)\n"
        "from cli.main import app\napp(['demo', '--quick', '--out', 'report'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("sluice: the demo needs the model pocket-llama")
