"""Executes step plans on a transformers model: evictions, one packed forward, draws."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from engine.artifacts import Artifact, load_artifacts
from engine.batch import BatchBuilder, Chunks
from engine.config import EngineConfig
from engine.context import forward_context
from engine.device import check_usable, choose_device
from engine.eviction import POLICIES
from engine.eviction.base import build, describe
from engine.evictor import Evictor
from engine.flight import StepInFlight
from engine.forward import Forward, LogitsOf, stock_logits
from engine.fused import fuse
from engine.importance import ImportanceStore
from engine.kv_pool import KvPool, KvShape
from engine.kv_scales import measure_scales, with_kv_dtype
from engine.loader import LoadedModel, load_model
from engine.memory import total_blocks
from engine.messages import ModelInfo, PolicyInfo
from engine.query_ring import QueryRing
from engine.rows import Rows, Traits
from engine.runner_api import Runner, StepFailed, build_model_info
from engine.static_steps import Result, StaticSteps
from engine.views import ViewBuilder
from kernels.impl import resolve, set_cpu_threads
from scheduler.plan import Chunk, StepPlan
from scheduler.request import Request, Sequence

PROBED_TOKENS = 8  # a prompt on which ways to run the model are compared


@dataclass(frozen=True)
class Parts:
    """A KV pool, and what runs steps on it."""

    pool: KvPool
    rows: Rows
    batches: BatchBuilder
    forward: Forward


class ModelRunner(Runner):
    """One model, its KV pool, and what it takes to run plans on them."""

    def __init__(self, config: EngineConfig, loaded: LoadedModel | None = None) -> None:
        self._config = config
        self._device = choose_device(config.device)
        _set_threads(config.threads)
        loaded = loaded or load_model(config, self._device)
        self._loaded = with_kv_dtype(loaded, config, self._device)
        self._impl = None if config.kernels == "auto" else config.kernels
        self.overlaps = _on_gpus(config.overlap, self._device)
        self.eviction_seconds = 0.0
        shape, settings = self._loaded.shape, config.scheduler
        rows = settings.max_running + 1  # the last is nobody's
        self._ring = None
        if config.query_ring:
            self._ring = QueryRing(shape, rows, config.query_ring, self._device)
        artifacts, self._lacking = load_artifacts(config.model, shape, self._device)
        self._importance = self._importance_store(artifacts)
        self._logits_of = stock_logits(self._loaded.model)
        self.total_blocks = total_blocks(config, self._loaded, self._device, self._run_largest_step)
        parts = self._parts(self.total_blocks, lambda sequence: self._evictor.traits(sequence))
        views = ViewBuilder(
            parts.pool,
            self._ring,
            self._loaded.scale,
            self._loaded.frequencies,
            artifacts,
            self._importance,
            self._impl,
        )
        self._evictor = Evictor(views, self._impl)
        self._rows, self._batches, self._forward = parts.rows, parts.batches, parts.forward
        attended = torch.empty(0, dtype=shape.dtype, device=self._device)
        self._kernels = str(resolve(self._impl, attended))
        measure_scales(self._loaded, parts.pool, self._fill_exactly)
        self._warm_up()
        self._static = None
        if _on_gpus(config.static_steps, self._device):
            blocks = self._rows.tables.shape[1]
            running = settings.max_running
            self._static = StaticSteps(self._forward, self._batches, running, blocks)
            self._static.capture_ahead(1)

    def describe(self) -> ModelInfo:
        loaded = self._loaded
        return build_model_info(
            self._config,
            architecture=loaded.architecture,
            max_sequence_tokens=loaded.max_sequence_tokens,
            vocabulary_size=loaded.vocabulary_size,
            total_blocks=self.total_blocks,
            kv_bytes_per_token=loaded.shape.bytes_per_token,
            dtype=loaded.shape.dtype_name,
            device=str(self._device),
            kernels=self._kernels,
            eos_token_ids=loaded.eos_token_ids,
            policies=self._policies(),
        )

    def launch(self, plan: StepPlan) -> StepInFlight:
        try:
            return self._launch(plan)
        except Exception as error:  # out of memory, most often, or a kernel that is refused
            check_usable(self._device)
            raise StepFailed(f"{type(error).__name__}: {error}") from error

    @torch.inference_mode()
    def _launch(self, plan: StepPlan) -> StepInFlight:
        came = self._rows.update(plan.chunks)
        for chunk in came:
            sequence = chunk.sequence
            if sequence.request.sampling.repetition_penalty != 1.0:
                self._forward.seen.begin(sequence.row or 0, sequence.tokens)
        chunks = Chunks.of(plan.chunks)
        self._evict(plan, chunks)
        tokens, logits = self._run(plan, chunks)
        drawn = chunks.rows[chunks.samples > 0]
        return StepInFlight(tokens, logits, self._rows.logprobs[drawn])

    @torch.inference_mode()
    def choose_blocks(self, sequence: Sequence, candidates: list[int], count: int) -> list[int]:
        started = time.perf_counter()
        chosen = self._evictor.choose_blocks(sequence, candidates, count)
        self.eviction_seconds += time.perf_counter() - started
        return chosen

    def _evict(self, plan: StepPlan, chunks: Chunks) -> None:
        """The plan's evictions, and what must be counted before queries are overwritten."""
        counted = self._rows.counted[chunks.rows]
        if not plan.evictions and not counted.any():
            return
        started = time.perf_counter()
        self._evictor.evict(plan.evictions)
        if counted.any():
            self._evictor.before_forward([plan.chunks[i] for i in counted.nonzero()[0]])
        self.eviction_seconds += time.perf_counter() - started

    def _run(self, plan: StepPlan, chunks: Chunks) -> Result:
        """What a plan draws, and from which logits."""
        predictors = self._rows.predictors
        predicted = {row: predictors[row] for row in predictors.keys() & chunks.rows.tolist()}
        penalised = bool((self._rows.penalties[chunks.rows] != 1.0).any())
        if self._static and chunks.only_decodes and not (predicted or penalised):
            return self._static.run(plan, chunks)
        return self._forward(self._batches.build(plan, chunks, predicted))

    def _parts(
        self,
        blocks: int,
        traits: Callable[[Sequence], Traits] = lambda _: Traits(False, False, None),
        shape: KvShape | None = None,
    ) -> Parts:
        """A pool of so many blocks, of the model's shape by default, and what runs steps on it."""
        loaded, settings, device = self._loaded, self._config.scheduler, self._device
        limit = min(loaded.max_sequence_tokens, blocks * settings.block_size)
        pool = KvPool(shape or loaded.shape, blocks, settings.block_size, device)
        rows = Rows(settings.max_running, pool.blocks_for(limit), traits)
        batches = BatchBuilder(pool, rows, self._ring, self._importance, self._impl)
        vocabulary = loaded.vocabulary_size
        forward = Forward(self._logits_of, settings.max_running, vocabulary, device, self._impl)
        return Parts(pool, rows, batches, forward)

    def _importance_store(self, artifacts: dict[str, Artifact]) -> ImportanceStore | None:
        """Where predicted importance goes, fed by the model; None if no policy here predicts."""
        learned = {name: a for name, a in artifacts.items() if POLICIES[name].needs_importance}
        if not learned:
            return None
        rows, positions = self._config.scheduler.max_running, self._loaded.max_sequence_tokens
        return ImportanceStore(learned, rows, positions, self._device)

    def _policies(self) -> list[PolicyInfo]:
        """All policies, each with the reason if this engine cannot serve it."""
        ring = self._ring.size if self._ring else 0
        described = []
        for name, policy in POLICIES.items():
            queries = max(build(policy, {}).needs_queries, int(policy.needs_mass))
            lacking = self._lacking.get(name, "")
            if queries > ring:
                lacking = (
                    f"it reads the last {queries} queries and this server keeps {ring}; start it "
                    f"with --query-ring {queries} or more"
                )
            elif policy.needs_frequencies and self._loaded.frequencies is None:
                lacking = "it needs rotary positions, which this model does not have"
            described.append(describe(policy, None if lacking else ring, lacking))
        return described

    @torch.inference_mode()
    def _fill_exactly(self, tokens: list[int]) -> KvPool:
        """A pool in the model's own type that holds nothing but these tokens."""
        shape = replace(self._loaded.shape, kv_dtype=None)
        parts = self._parts(-(-len(tokens) // self._config.scheduler.block_size), shape=shape)
        plan = StepPlan(chunks=[_probing_chunk(tokens, 0, range(parts.pool.blocks))])
        parts.rows.update(plan.chunks)
        parts.forward(parts.batches.build(plan, Chunks.of(plan.chunks), {}))
        return parts.pool

    @torch.inference_mode()
    def _run_largest_step(self) -> None:
        """As many tokens as a step may have, from as many sequences as may run, all drawn from."""
        settings = self._config.scheduler
        tokens = settings.max_batch_tokens // settings.max_running
        blocks = -(-tokens // settings.block_size)
        parts = self._parts(blocks * settings.max_running)
        plan = StepPlan(
            chunks=[
                _probing_chunk(list(range(tokens)), row, range(row * blocks, (row + 1) * blocks))
                for row in range(settings.max_running)
            ]
        )
        parts.rows.update(plan.chunks)
        parts.forward(parts.batches.build(plan, Chunks.of(plan.chunks), {}))

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Proves that every layer's attention is ours, fuses the model, and compiles kernels."""
        size = self._config.scheduler.block_size
        tokens = min(PROBED_TOKENS, self.total_blocks * size)
        chunk = _probing_chunk(list(range(tokens)), 0, range(-(-tokens // size)))
        plan = StepPlan(chunks=[chunk])
        self._rows.update(plan.chunks)
        batch = self._batches.build(plan, Chunks.of(plan.chunks), {})

        def probe(logits_of: LogitsOf) -> torch.Tensor:
            with forward_context(batch.context) as context:
                return logits_of(batch.ids, context.positions.long(), batch.draws.tokens)

        probe(self._logits_of)
        layers, seen = self._loaded.shape.layers, batch.context.layers_seen
        if seen != set(range(layers)):
            raise ValueError(
                f"{self._loaded.architecture}: only layers {sorted(seen)} of {layers} use "
                "transformers' AttentionInterface; this model cannot be served"
            )
        if self._config.fused:
            self._logits_of = fuse(self._loaded, self._logits_of, self._impl, probe)
            self._forward.logits_of = self._logits_of
        self._forward(batch)
        decode = StepPlan(chunks=[Chunk(chunk.sequence, tokens - 1, 1, tokens - 1, True)])
        self._forward(self._batches.build(decode, Chunks.of(decode.chunks), {}))
        self._evictor.warm_up([p.name for p in self._policies() if not p.unavailable])


def _probing_chunk(tokens: list[int], row: int, blocks: range) -> Chunk:
    """A prompt, all of it at once."""
    request = Request(key=-1, prompt=tuple(tokens), max_new_tokens=1)
    sequence = Sequence(request, 0, tokens, blocks=list(blocks), row=row)
    return Chunk(sequence, 0, len(tokens), 0, True)


def _on_gpus(setting: bool | None, device: torch.device) -> bool:
    return device.type == "cuda" if setting is None else setting


def _set_threads(threads: int | None) -> None:
    """Front and clients need a core too, so half of the cores are left to them."""
    count = threads or max((os.cpu_count() or 2) // 2, 1)
    torch.set_num_threads(count)
    set_cpu_threads(count)
