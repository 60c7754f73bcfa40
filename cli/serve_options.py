"""The options of `sluice serve`, once: for flags, keys of a file, the environment, the documents.

To add one: a field in a dataclass of service/config.py or engine/config.py, with its type and
default, and a line in OPTIONS. `python -m cli.serve_options` prints the table of
docs/operations.md.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_type_hints

import msgspec

from cli.options import option
from service.config import ServiceConfig

PREFIX = "SLUICE_SERVE_"  # SLUICE_TLS_CERT is the clients', SLUICE_PORT Kubernetes'
FIELDS = {"default_kv_budget": "default_tokens", "max_kv_budget": "max_tokens"}  # by option

TEXTS = {  # by option, in the order of --help
    "model": "A directory, a hub id, or 'fake'.",
    "name": "What requests call the model; else its last part.",
    "listen": "host:port of gRPC; port 0 is any free one.",
    "metrics_host": "Address of the metrics port.",
    "metrics_port": "Prometheus port; 0 is any free one.",
    "metrics": "Whether to have a metrics port.",
    "max_request_seconds": "Longest time of a request.",
    "drain_seconds": "Time for live streams after SIGTERM.",
    "engine_silence_seconds": "An engine that says nothing for so long is killed.",
    "tokens_file": "TOML: tenants, tokens, quotas.",
    "tls_cert": "Certificate of this server, PEM.",
    "tls_key": "Its key, PEM.",
    "tls_client_ca": "Clients must show what this CA signed.",
    "otlp_endpoint": "Collector of traces, http://host:4317.",
    "device": "auto, cpu, cuda, cuda:1, ...",
    "dtype": "auto, float32, bfloat16 or float16.",
    "kv_dtype": "Of the KV cache: auto or fp8_e4m3.",
    "kernels": "auto, triton, numba or reference.",
    "threads": "CPU threads of the engine; else half the cores.",
    "kv_blocks": "Blocks of the KV pool; else from memory.",
    "kv_memory_gib": "Size of the KV pool, for --kv-blocks.",
    "block_size": "KV entries per block.",
    "max_running": "Outputs that run at once.",
    "max_waiting": "Outputs that may wait.",
    "max_batch_tokens": "Tokens of one step.",
    "max_sequence_tokens": "Longest sequence; else the model's own limit.",
    "prefix_cache": "Share the KV of equal prompts.",
    "default_kv_budget": "KV budget of requests without one; 0 is none.",
    "max_kv_budget": "Largest KV budget allowed; 0 is any.",
    "default_policy": "Policy of requests without one.",
    "fused": "Fuse small operations of the model.",
    "static_steps": "CUDA graphs; on by default on GPUs.",
    "overlap": "Launch a step before the last is read; on by default on GPUs.",
    "query_ring": "Recent queries kept for policies.",
    "fake_step_seconds": "Length of the fake model's step.",
    "log_level": "debug, info, warning or error.",
    "log_format": "pretty, or json for one object a line.",
    "log_prompts": "Write prompts into the log.",
}


@dataclass(frozen=True)
class ServeOption:
    """One setting of the service."""

    name: str  # the key in a file
    kind: Any  # bool, int, float, str, Path or list[str]
    default: Any
    text: str  # what it means

    @property
    def flag(self) -> str:
        dashed = self.name.replace("_", "-")
        return f"--{dashed}/--no-{dashed}" if self.kind is bool else f"--{dashed}"

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


def takes_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A typer command whose `**given` stands for all options; one that is not given is None."""
    kept = [p for p in inspect.signature(command).parameters.values() if p.kind != p.VAR_KEYWORD]
    made = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[each.kind | None, option(each.text)],
        )
        for each in OPTIONS
    ]
    command.__signature__ = inspect.Signature([*kept, *made])  # type: ignore[attr-defined]
    return command


def as_markdown() -> str:
    """The options as the table of the documentation."""
    rows = ["| option, key in the file | default | |", "|---|---|---|"]
    for each in OPTIONS:
        shown = msgspec.json.encode(each.default, enc_hook=str).decode().strip('"')
        default = "" if each.default is None else f"`{shown}`"
        rows.append(f"| `{each.flag}` | {default} | {each.text} |")
    return "\n".join(rows)


def _options() -> Iterator[ServeOption]:
    fields = {"metrics": (bool, True), **dict(_fields(ServiceConfig()))}
    for name, text in TEXTS.items():
        kind, default = fields[FIELDS.get(name, name)]
        yield ServeOption(name, kind, default, text)


def _fields(part: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Name, type and default of every field of a dataclass and those within it."""
    hints = get_type_hints(type(part))
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value)
        else:
            kind = hints[field.name]
            if isinstance(kind, UnionType):
                kind = next(each for each in get_args(kind) if each is not NoneType)
            yield field.name, (kind, value)


OPTIONS = list(_options())

if __name__ == "__main__":
    print(as_markdown())
