"""Everything the front process is told at its start; the one place where its defaults live."""

import re
from dataclasses import dataclass, field

from engine.config import FAKE_MODEL, BudgetLimits, EngineConfig, LogConfig, SchedulerConfig

__all__ = [
    "FAKE_MODEL",
    "BudgetLimits",
    "EngineConfig",
    "LogConfig",
    "SchedulerConfig",
    "ServiceConfig",
]

ENDPOINT = re.compile(r"https?://([^\s/:?#@\[\]]+|\[[0-9a-fA-F:]+\]):\d{1,5}/?")


@dataclass(frozen=True)
class ServiceConfig:
    """Where the service listens and how long it waits for what. Times are in seconds."""

    listen: str = "127.0.0.1:7700"  # host:port of gRPC; port 0 is any free one
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = 9400  # 0: any free one; None: no metrics port
    max_request_seconds: float = 3600.0  # longest a request may take, whatever its deadline
    drain_seconds: float = 30.0  # given to live streams after SIGTERM
    heartbeat_seconds: float = 2.0  # longest silence of a stream before a Progress message
    write_stall_seconds: float = 30.0  # a client that takes nothing for so long is given up
    engine_silence_seconds: float = 120.0  # an engine with requests that says no more is hung
    max_message_bytes: int = 4 * 2**20  # of one request
    max_prompt_characters: int = 2_000_000  # of text or chat, before it is tokenised
    log_prompts: bool = False  # whether the line of a request in the log holds its prompt
    tokens_file: str | None = None  # bearer tokens of tenants; None: anybody may call
    tls_cert: str | None = None  # PEM files; None: plain text
    tls_key: str | None = None
    tls_client_ca: str | None = None  # signs the certificates that clients must then show
    otlp_endpoint: str | None = None  # a collector of traces, http://host:port; None: no traces
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if not self.engine_silence_seconds > 0:
            raise ValueError(
                f"engine_silence_seconds is {self.engine_silence_seconds}; want more than 0, and "
                "more than the longest step takes"
            )
        if self.otlp_endpoint is not None and not ENDPOINT.fullmatch(self.otlp_endpoint):
            raise ValueError(
                f"otlp_endpoint is {self.otlp_endpoint!r}; want http://host:port, or https://, of "
                "a collector's gRPC port (4317 by custom), and no path"
            )

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0]
