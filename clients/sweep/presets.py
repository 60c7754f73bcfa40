"""How answers are drawn, as published."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from clients.errors import DataError


@dataclass(frozen=True)
class Preset:
    """Sampling settings under one name. None is the server's default."""

    source: str
    temperature: float
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "deepseek": Preset("DeepSeek-R1's README; 64 samples there", 0.6, 0.95, None, 32768),
        "dynts": Preset("DynTS, arXiv 2601.18383; 5 samples there", 0.6, 0.95, 20, 16384),
        "greedy": Preset("the most probable token", 0.0),
    }
)
DEFAULT = "deepseek"


def preset(name: str) -> Preset:
    """The preset called `name`; DataError lists those there are."""
    if name not in PRESETS:
        raise DataError(f"unknown sampling {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
