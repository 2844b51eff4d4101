"""The section ``deploy`` of the parameters for a stack on one machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.identity import NO_TELEMETRY
from tasks.stack import StackParams
from tasks.validation import Frozen, Seconds


class ModelParams(Frozen):
    """The toy model that each local replica serves (random weights, locally built tokenizer)."""

    architecture: Literal["falcon-h1", "llama", "qwen2"] = "falcon-h1"
    layers: Annotated[int, Field(ge=1, le=32)] = 2
    hidden_size: Annotated[int, Field(ge=64, le=4096, multiple_of=64)] = 128
    vocabulary: Annotated[int, Field(ge=512, le=65_536)] = 2048
    max_model_len: Annotated[int, Field(ge=64, le=8192)] = 512
    max_num_seqs: Annotated[int, Field(ge=1, le=256)] = 16
    kv_cache_mb: Annotated[int, Field(ge=16, le=65_536)] = 64

    @property
    def max_prompt_tokens(self) -> int | None:
        """The longest prompt beside ``max_model_len``, chat template included.

        The CPU engine of vLLM 0.32 dies of a Falcon-H1 prompt of more than one block of its cache (128 tokens): its
        scan of the Mamba layers does not return the intermediate states that the prefix cache asks for.
        """
        return 128 if self.architecture == "falcon-h1" else None


class CpuCores(Frozen):
    """CPU quota of each service's cgroup, in cores, once the stack is healthy."""

    gateway: Annotated[float, Field(gt=0, le=256)] = 0.5
    head: Annotated[float, Field(gt=0, le=256)] = 1.0
    replica: Annotated[float, Field(gt=0, le=256)] = 0.6


class LocalDeployParams(StackParams):
    """A stack of real processes on this machine."""

    backend: Literal["local"]
    replicas: Annotated[int, Field(ge=1, le=32)]
    model: ModelParams = ModelParams()
    cpu_cores: CpuCores = CpuCores()
    scrape_interval_s: Annotated[float, Field(ge=0.5, le=60)] = 1
    start_timeout_s: Annotated[Seconds, NO_TELEMETRY] = 420

    @property
    def slowest_scrape_s(self) -> float:
        """Seconds between scrapes of Ray, whose agents use 0.1 s of CPU each: at least 2."""
        return max(2.0, self.scrape_interval_s)
