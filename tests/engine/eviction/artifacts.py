"""Random tensors in the shape of the files that calibrated and learned policies read."""

import torch

from engine.eviction import regret
from engine.eviction.dynts import predictor_shapes
from engine.kv_pool import KvShape

END_THINK = 31  # ends thinking in the tiny models' random files


def random_artifacts(shape: KvShape, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of every policy that needs some; no two policies name theirs alike."""
    draw = torch.Generator().manual_seed(seed)
    half = (shape.layers, shape.heads, shape.head_dim // 2)
    real, imaginary = torch.randn(2, *half, generator=draw)
    predictor = {
        name: torch.randn(size, generator=draw) / size[1] ** 0.5
        for name, size in predictor_shapes(shape.hidden_size).items()
    }
    spread = {
        name: torch.randn(size, generator=draw) / size[-1] ** 0.5
        for name, size in regret.artifact_shapes(shape).items()
    }
    return {
        "regret": spread,
        "tri_attention": {
            "q_mean": torch.cat([real, imaginary], dim=-1),
            "q_abs": torch.hypot(real, imaginary) + torch.rand(half, generator=draw),
        },
        "dynts": {**predictor, "end_ids": torch.tensor([END_THINK])},
    }
