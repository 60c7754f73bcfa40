"""Executes step plans on a transformers model: evictions, one packed forward, draws."""

import os
import time

import torch

from engine.artifacts import Artifact, load_artifacts
from engine.batch import Batch, BatchBuilder
from engine.config import EngineConfig
from engine.context import forward_context, predict_importance
from engine.eviction import POLICIES
from engine.eviction.base import build, describe
from engine.evictor import Evictor
from engine.importance import ImportanceStore
from engine.kv_pool import KvPool
from engine.loader import LoadedModel, load_model
from engine.messages import ModelInfo, PolicyInfo
from engine.query_ring import QueryRing
from engine.runner_api import build_model_info
from engine.sampler import Draw, sample, top_logprobs
from engine.views import ViewBuilder
from kernels.impl import resolve, set_cpu_threads
from scheduler.plan import Chunk, StepPlan, StepResult
from scheduler.request import Request, Sequence

CPU_POOL_BYTES = 1 << 30
GPU_POOL_SHARE = 0.85  # of what is free after loading; the rest is for activations


class ModelRunner:
    """One model, its KV pool, and what it takes to run plans on them."""

    def __init__(self, config: EngineConfig, loaded: LoadedModel | None = None) -> None:
        self._config = config
        self._device = _device(config.device)
        _set_threads(config.threads)
        self._loaded = loaded or load_model(config, self._device)
        shape = self._loaded.shape
        self.total_blocks = _total_blocks(config, self._loaded, self._device)
        self.eviction_seconds = 0.0
        settings = config.scheduler
        pool = KvPool(shape, self.total_blocks, settings.block_size, self._device)
        impl = None if config.kernels == "auto" else config.kernels
        self._kernels = str(resolve(impl, pool.keys))
        ring = None
        if config.query_ring:
            ring = QueryRing(shape, settings.max_running, config.query_ring, self._device)
        self._ring = ring
        limit = min(self._loaded.max_sequence_tokens, self.total_blocks * settings.block_size)
        blocks = -(-limit // settings.block_size)
        artifacts, self._lacking = load_artifacts(config.model, shape, self._device)
        self._importance = self._importance_store(artifacts)
        self._batches = BatchBuilder(
            pool, ring, self._importance, settings.max_running, blocks, impl
        )
        views = ViewBuilder(
            pool,
            ring,
            self._loaded.scale,
            self._loaded.frequencies,
            artifacts,
            self._importance,
            impl,
        )
        self._evictor = Evictor(views, impl)
        self._warm_up()

    def describe(self) -> ModelInfo:
        loaded = self._loaded
        return build_model_info(
            self._config,
            architecture=loaded.architecture,
            max_sequence_tokens=loaded.max_sequence_tokens,
            vocabulary_size=loaded.vocabulary_size,
            total_blocks=self.total_blocks,
            kv_bytes_per_token=loaded.shape.bytes_per_token,
            dtype=str(loaded.shape.dtype).removeprefix("torch."),
            device=str(self._device),
            kernels=self._kernels,
            eos_token_ids=loaded.eos_token_ids,
            policies=self._policies(),
        )

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        started = time.perf_counter()
        watched = [chunk for chunk in plan.chunks if self._evictor.watches(chunk.sequence)]
        if plan.evictions or watched:
            self._evictor.evict(plan.evictions)
            self._evictor.before_forward(watched)
            self.eviction_seconds += time.perf_counter() - started
        batch = self._batches.build(plan, {c.sequence.row for c in watched}, self._predicted(plan))
        draws = [_draw(chunk) for chunk in plan.chunks if chunk.samples]
        logits = self._forward(batch)
        if not draws:
            return StepResult([])
        tokens = sample(logits, draws)
        return StepResult(tokens, top_logprobs(logits, draws, tokens))

    @torch.inference_mode()
    def choose_blocks(self, sequence: Sequence, candidates: list[int], count: int) -> list[int]:
        started = time.perf_counter()
        chosen = self._evictor.choose_blocks(sequence, candidates, count)
        self.eviction_seconds += time.perf_counter() - started
        return chosen

    def _forward(self, batch: Batch) -> torch.Tensor:
        """Logits [draws, vocabulary] of the packed rows that are drawn from."""
        with forward_context(batch.context):
            outputs = self._loaded.model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                use_cache=False,
                logits_to_keep=batch.sampled_rows,
            )
        logits: torch.Tensor = outputs.logits[0]
        return logits

    def _importance_store(self, artifacts: dict[str, Artifact]) -> ImportanceStore | None:
        """Where predicted importance goes, fed by the model; None if no policy here predicts."""
        learned = {name: a for name, a in artifacts.items() if POLICIES[name].needs_importance}
        if not learned:
            return None
        self._loaded.model.base_model.register_forward_hook(predict_importance)  # type: ignore
        rows, positions = self._config.scheduler.max_running, self._loaded.max_sequence_tokens
        return ImportanceStore(learned, rows, positions, self._device)

    def _predicted(self, plan: StepPlan) -> dict[int | None, str]:
        """Rows whose tokens' importance is predicted, and the policies that do it."""
        if self._importance is None:
            return {}
        policies = {c.sequence.row: self._evictor.predictor(c.sequence) for c in plan.chunks}
        return {row: policy for row, policy in policies.items() if policy is not None}

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
    def _warm_up(self) -> None:
        """Compiles kernels, and proves that every layer's attention is ours."""
        for count in (2, 1):  # a prefill chunk, then a decode
            sequence = Sequence(Request(key=-1, prompt=(0, 0), max_new_tokens=1), 0, [0, 0])
            sequence.blocks, sequence.row = [0], 0
            plan = StepPlan(chunks=[Chunk(sequence, 2 - count, count, 2 - count, True)])
            batch = self._batches.build(plan, set(), {})
            self._forward(batch)
        self._evictor.warm_up([p.name for p in self._policies() if not p.unavailable])
        layers = self._loaded.shape.layers
        if batch.context.layers_seen != set(range(layers)):
            raise ValueError(
                f"{self._loaded.architecture}: only layers {sorted(batch.context.layers_seen)} of "
                f"{layers} use transformers' AttentionInterface; this model cannot be served"
            )


def _draw(chunk: Chunk) -> Draw:
    sequence = chunk.sequence
    return Draw(sequence.request.sampling, sequence.output, sequence.tokens)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _set_threads(threads: int | None) -> None:
    """Front and clients need a core too, so half of the cores are left to them."""
    count = threads or max((os.cpu_count() or 2) // 2, 1)
    torch.set_num_threads(count)
    set_cpu_threads(count)


def _total_blocks(config: EngineConfig, loaded: LoadedModel, device: torch.device) -> int:
    """Blocks in the pool: as configured, else what memory allows and the load can use."""
    settings = config.scheduler
    if config.kv_blocks is not None:
        return config.kv_blocks
    if config.kv_memory_gib is not None:
        memory = int(config.kv_memory_gib * (1 << 30))
    elif device.type == "cuda":
        memory = int(torch.cuda.mem_get_info(device)[0] * GPU_POOL_SHARE)
    else:
        memory = CPU_POOL_BYTES
    affordable = memory // (loaded.shape.bytes_per_token * settings.block_size)
    useful = settings.max_running * -(-loaded.max_sequence_tokens // settings.block_size)
    if affordable < 1:
        raise ValueError(f"{memory} bytes hold no KV block of this model; give the pool more")
    return min(affordable, useful)
