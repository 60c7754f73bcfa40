"""The directory of one run: rows.jsonl, and run.json that says how they were measured."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from clients import records
from clients.environment import Environment, environment
from clients.errors import DataError, SweepError
from clients.records import Cell, Record
from clients.sweep.plan import Job, Settings
from protos.sluice.v1 import sluice_pb2 as pb

ROWS = "rows.jsonl"
MANIFEST = "run.json"


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a server's description that decides its speed and its answers."""

    model: str
    architecture: str
    device: str
    dtype: str
    kernels: str
    block_size: int
    total_blocks: int
    kv_bytes_per_token: int
    max_running: int
    chat: bool
    default_policy: str
    servers: int = 1  # that share the requests

    @classmethod
    def of(cls, model: pb.ModelInfo, server: pb.ServerInfo, servers: int = 1) -> "ServerFacts":
        return cls(
            model=model.name,
            architecture=model.architecture,
            device=model.device,
            dtype=model.dtype,
            kernels=model.kernels,
            block_size=model.block_size,
            total_blocks=model.total_blocks,
            kv_bytes_per_token=model.kv_bytes_per_token,
            max_running=server.max_running,
            chat=model.has_chat_template,
            default_policy=model.default_policy,
            servers=servers,
        )


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """How a run was measured."""

    run: str
    created: str  # UTC, ISO 8601
    settings: Settings
    environment: Environment
    servers: dict[str, ServerFacts] = {}  # by model


class Run:
    """Rows so far, and the one way to add some."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        """Opens a run, new or existing.

        Raises:
            SweepError: the directory holds a run that was measured in another way.
            DataError: its files cannot be read.
        """
        self.directory = directory
        self._writer = records.Writer(directory / ROWS)
        try:
            self._rows = {row.key: row for row in records.read(directory / ROWS)}
            self._manifest = self._open(settings)
        except BaseException:
            self._writer.__exit__()
            raise

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.__exit__()

    @property
    def name(self) -> str:
        return self._manifest.run

    @property
    def rows(self) -> list[Record]:
        return list(self._rows.values())

    def of(self, cell: Cell) -> list[Record]:
        """The rows of one cell."""
        return [row for row in self._rows.values() if row.cell == cell]

    def next_segment(self, cell: Cell) -> int:
        """The segment that a resumption of `cell` would be; 0 where it has no rows."""
        return max((row.segment + 1 for row in self.of(cell)), default=0)

    def is_done(self, cell: Cell, job: Job, prompt: str) -> bool:
        """Whether this answer is there; a failed request is not an answer.

        Raises:
            SweepError: the row that is there answers another question of the same name.
        """
        row = self._rows.get((cell, job.problem.id, job.sample))
        if row is None or row.failed:
            return False
        if (row.prompt and row.prompt != prompt) or row.gold != job.problem.answer:
            raise SweepError(
                f"{self.directory} holds an answer to problem {job.problem.id} of {cell.task}, but "
                "to other words or with another reference answer; the data set was changed. Choose "
                "another --out, or the data set as it was"
            )
        return True

    def add(self, row: Record) -> None:
        self._writer.add(row)
        self._rows[row.key] = row

    def add_server(self, facts: ServerFacts) -> None:
        """Notes where a model ran; SweepError if its earlier rows came from another set-up."""
        known = self._manifest.servers.get(facts.model)
        measured = any(row.model == facts.model for row in self._rows.values())
        if measured and known is not None and known != facts:
            raise SweepError(
                f"{self.directory} holds rows of {facts.model} measured on another set-up "
                f"({_changes(known, facts)}); choose another --out, or start the server as before"
            )
        servers = {**self._manifest.servers, facts.model: facts}
        self._save(msgspec.structs.replace(self._manifest, servers=servers))

    def _open(self, settings: Settings) -> Manifest:
        path = self.directory / MANIFEST
        if not path.exists() or not self._rows:
            manifest = Manifest(
                run=self.directory.resolve().name,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                settings=settings,
                environment=environment(),
            )
            self._save(manifest)
            return manifest
        manifest = read_manifest(path)
        if manifest.settings != settings:
            raise SweepError(
                f"{self.directory} holds a run with other settings "
                f"({_changes(manifest.settings, settings)}); choose another --out, or the same ones"
            )
        return manifest

    def _save(self, manifest: Manifest) -> None:
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        path = self.directory / MANIFEST
        partial = path.with_suffix(".partial")
        try:  # a killed writer leaves the old manifest, not half of the new one
            partial.write_bytes(data + b"\n")
            partial.replace(path)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}") from error
        self._manifest = manifest


def read_manifest(path: Path) -> Manifest:
    """Reads run.json; DataError if it is not one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DataError(f"cannot read the run {path}: {error}") from error


def _changes(old: object, new: object) -> str:
    before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
    return ", ".join(
        f"{name} was {before[name]}, now {after[name]}"
        for name in after
        if before[name] != after[name]
    )
