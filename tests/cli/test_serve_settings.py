"""Where the settings of `sluice serve` come from, and how those that cannot be used are refused."""

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.serve import configure
from cli.serve_options import OPTIONS, TEXTS, as_markdown
from cli.serve_settings import SettingError, as_toml, settle
from service.config import ServiceConfig

ROOT = Path(__file__).parents[2]
BY_NAME = {option.name: option for option in OPTIONS}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "serve.toml"
    path.write_text(text)
    return path


def test_the_command_line_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "kv_blocks = 1\nmax_running = 1\nblock_size = 1\n")
    environment = {"SLUICE_SERVE_KV_BLOCKS": "2", "SLUICE_SERVE_MAX_RUNNING": "2"}
    settings = settle({"kv_blocks": 3}, environment, file)
    found = {setting.option.name: (setting.value, setting.source) for setting in settings}
    assert found["kv_blocks"] == (3, "command line")
    assert found["max_running"] == (2, "environment")
    assert found["block_size"] == (1, f"file {file}")
    assert found["max_waiting"] == (4096, "default")


def test_nothing_given_is_todays_configuration() -> None:
    settings = settle({}, {}, None)
    values = {setting.option.name: setting.value for setting in settings}
    assert configure({k: v for k, v in values.items() if v is not None}) == ServiceConfig()
    assert {setting.source for setting in settings} == {"default"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("kv_blocks", "12", 12),
        ("kv_memory_gib", "0.5", 0.5),
        ("kv_memory_gib", "2", 2.0),
        ("metrics", "false", False),
        ("fused", "1", True),
        ("model", "fake", "fake"),
    ],
)
def test_types_in_the_environment(name: str, text: str, value: object) -> None:
    settings = settle({}, {BY_NAME[name].variable: text}, None)
    (found,) = [setting.value for setting in settings if setting.option.name == name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('drain_seconds = "soon"', 'drain_seconds is "soon"; allowed is a number'),
        ("kv_blocks = 1.5", "kv_blocks is 1.5; allowed is a whole number"),
        ('kv_blocks = "1"', 'kv_blocks is "1"; allowed is a whole number'),
        ("metrics = 1", "metrics is 1; allowed is true or false"),
        ("kv_blocks = true", "kv_blocks is true; allowed is a whole number"),
        ("model = 2026-11-21", 'model is "2026-11-21"; allowed is text'),
        (
            "drain_secs = 1",
            "drain_secs is no option of `sluice serve`; did you mean drain_seconds?",
        ),
        ("[engine]\nkv_blocks = 1", "engine is no option of `sluice serve`; allowed are model, "),
        ("kv_blocks = ", "is no TOML: Invalid value"),
    ],
)
def test_what_a_file_may_not_hold(text: str, said: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(SettingError) as caught:
        settle({}, {}, file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_variable_of_the_wrong_type_is_named() -> None:
    with pytest.raises(SettingError, match=r'METRICS_PORT is "tcp://x"; allowed is a wh'):
        settle({}, {"SLUICE_SERVE_METRICS_PORT": "tcp://x"}, None)


def test_variables_that_are_no_options_are_left_alone() -> None:
    """Kubernetes makes some for every service by its name."""
    settle({}, {"SLUICE_SERVE_PORT": "tcp://10.0.0.1:7700", "SLUICE_KV_BLOCKS": "x"}, None)


def test_the_command_ends_with_2_and_one_line(tmp_path: Path) -> None:
    for file in (written(tmp_path, "nonsense = 1"), tmp_path / "none.toml", tmp_path):
        result = CliRunner().invoke(app, ["serve", "--config", str(file)])
        assert result.exit_code == 2
        assert result.output.count("\n") == 1
        assert str(file) in result.output


def test_what_is_printed_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    command = ["serve", "--print-config", "--model", 'a"b', "--no-metrics", "--drain-seconds", "7"]
    environment = {"SLUICE_SERVE_KV_BLOCKS": "9"}
    result = CliRunner().invoke(app, command, env=environment)
    assert result.exit_code == 0, result.output
    table = tomllib.loads(result.output)
    assert (table["model"], table["metrics"], table["drain_seconds"]) == ('a"b', False, 7.0)
    assert table["kv_blocks"] == 9
    assert "# kv_memory_gib is not set" in result.output
    lines = {line.split()[0]: line for line in result.output.splitlines()}
    assert lines["kv_blocks"].endswith("  # environment")
    assert lines["max_waiting"].endswith("  # default")
    again = settle({}, {}, written(tmp_path, result.output))
    assert {s.option.name: s.value for s in again if s.value is not None} == table
    assert as_toml(again).splitlines()[0].endswith(f"# file {tmp_path / 'serve.toml'}")


def test_every_option_is_documented() -> None:
    """If this fails: `python -m cli.serve_options` prints the table that belongs there."""
    documents = [path.read_text() for path in (ROOT / "docs").glob("operations*.md")]
    assert any(as_markdown() in text for text in documents)
    assert all(text.endswith(".") and "|" not in text for text in TEXTS.values())
