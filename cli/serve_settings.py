"""Where the settings of `sluice serve` come from: command line, environment, file, default."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cli.serve_options import OPTIONS, ServeOption
from clients.errors import SluiceError

KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    list[str]: "a list of texts; in the environment, with commas",
}


class SettingError(SluiceError):
    """A setting that cannot be used: says where it stands and what is allowed."""


@dataclass(frozen=True)
class Setting:
    """A value in force."""

    option: ServeOption
    value: Any
    source: str


def settle(
    given: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
) -> list[Setting]:
    """Every option with its value: as `given` on the command line, else from the environment, else
    from the file, else the default.

    Raises:
        SettingError: the file cannot be read, has a key that is no option, or a value there or in
            the environment has the wrong type.
    """
    sources = [
        ("command line", given),
        ("environment", _from_environment(environment)),
        (f"file {file}", {} if file is None else _from_file(file)),
    ]
    return [_settle(option, sources) for option in OPTIONS]


def _settle(option: ServeOption, sources: list[tuple[str, Mapping[str, Any]]]) -> Setting:
    for source, values in sources:
        if option.name in values:
            return Setting(option, values[option.name], source)
    return Setting(option, option.default, "default")


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Unknown names are left alone: Kubernetes makes some, for a service called sluice-serve."""
    values = {}
    for option in OPTIONS:
        text = environment.get(option.variable)
        if text is not None:
            raw = text.split(",") if option.kind == list[str] else text
            values[option.name] = _converted(option, raw, option.variable, strict=False)
    return values


def _from_file(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is no TOML: {error}") from error
    known = {option.name: option for option in OPTIONS}
    for key in table.keys() - known.keys():
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(known)}"
        raise SettingError(f"{path}: {key} is no option of `sluice serve`; {hint}")
    return {
        key: _converted(known[key], value, f"{path}: {key}", strict=True)
        for key, value in table.items()
    }


def _converted(option: ServeOption, value: Any, where: str, *, strict: bool) -> Any:
    kind = str if option.kind is Path else option.kind
    try:
        converted = msgspec.convert(value, kind, strict=strict)
        return Path(converted) if option.kind is Path else converted
    except msgspec.ValidationError:
        shown = msgspec.json.encode(value, enc_hook=str).decode()
        raise SettingError(f"{where} is {shown}; allowed is {KINDS[option.kind]}") from None


def as_toml(settings: Iterable[Setting]) -> str:
    """The settings as a file that --config takes, each with where it came from."""
    lines = []
    for setting in settings:
        value = setting.value
        line = f"# {setting.option.name} is not set"
        if value is not None:
            line = f"{setting.option.name} = {msgspec.json.encode(value, enc_hook=str).decode()}"
        lines.append(f"{line:<44}  # {setting.source}")
    return "\n".join(lines)
