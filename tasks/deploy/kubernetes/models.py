"""The models that a replica can serve, from ``models.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

PRESETS_FILE = Path(__file__).with_name("models.yaml")


class ModelPreset(BaseModel):
    """One model. ``source`` is its Hugging Face id; ``gated``: only an account that accepted its licence may load it.

    ``engine`` holds vLLM's arguments; ``min_gpu_memory_gb`` 0 marks a model that runs on CPUs, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    gated: bool
    weights_gb: float = Field(gt=0)
    min_gpu_memory_gb: float = Field(ge=0)
    layers: int = Field(gt=0)
    tensor_parallel: tuple[int, ...]
    engine: dict[str, Any]

    @property
    def runs_on_cpu(self) -> bool:
        return self.min_gpu_memory_gb == 0

    @property
    def volume_gb(self) -> int:
        """GB for the weights, twice: the download needs as much again."""
        return max(5, round(2 * self.weights_gb) + 5)


@cache
def model_presets() -> Mapping[str, ModelPreset]:
    """Return name -> preset, in the order of the file."""
    document = yaml.safe_load(PRESETS_FILE.read_text(encoding="utf-8"))
    return {name: ModelPreset.model_validate({"name": name, **fields}) for name, fields in document.items()}


def max_model_len(name: str, engine_arguments: Mapping[str, Any]) -> int | None:
    """Return the longest context of a preset with arguments over its own; None if neither says."""
    length = {**model_preset(name).engine, **engine_arguments}.get("max_model_len")
    return length if isinstance(length, int) and not isinstance(length, bool) and length > 0 else None


def model_preset(name: str) -> ModelPreset:
    """Return a preset. Raises KeyError for an unknown name, which ``validate_deploy_params`` reports first."""
    return model_presets()[name]
