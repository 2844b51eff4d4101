"""KV-cache squeeze: long conversations of another client fill the engine's KV cache."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes import gpu_probes
from tasks.inject.executors.kubernetes.contention import PromptExecutor
from tasks.inject.probe import Probe

RISE_PERCENT = 20


class Parameters(FaultParameters):
    concurrency: Annotated[int, Field(ge=1, le=1024, description="conversations under way at a time")] = 48
    prompt_tokens: Annotated[int, Field(ge=16, le=1_000_000, description="about so many in each prompt")] = 3000
    output_tokens: Annotated[int, Field(ge=1, le=100_000, description="generated for each prompt")] = 500


class KvCacheSqueeze(PromptExecutor[Parameters]):
    def flood_arguments(self) -> dict[str, Any]:
        return {
            "concurrency": self.parameters.concurrency,
            "prompt-words": self.parameters.prompt_tokens,
            "output-tokens": self.parameters.output_tokens,
        }

    def probe(self) -> Probe:
        return gpu_probes.kv_cache_usage(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during - before >= RISE_PERCENT

    @property
    def criterion(self) -> str:
        return f"a rise of {RISE_PERCENT} % of the cache"


register(
    FaultKind(
        name="kv-cache-squeeze",
        summary="long prompts of another client fill the engine's KV cache; needs a stack with one replica",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset({"KV cache"}),
        probe="KV cache in use (vLLM)",
        signals="KV cache, queue and preemptions of the target; time to first token",
        metrics=(metrics.KV_CACHE_USAGE, metrics.REQUESTS_WAITING, metrics.PREEMPTIONS_RATE),
        executors={"kubernetes": KvCacheSqueeze},
    )
)
