"""What vLLM calls its processes and its spans."""

from __future__ import annotations

ENGINE_TITLE = "VLLM::"
"""The titles of the engine's and its workers' processes start so: ``VLLM::EngineCore``, ``VLLM::Worker_TP0``."""

ENGINE_SPAN = "llm_request"
"""The span of one request in the engine."""
DECODE_TIME = "gen_ai.latency.time_in_model_decode"
"""Attribute of the engine's span: seconds from the first token to the last."""
OUTPUT_TOKENS = "gen_ai.usage.completion_tokens"
"""Attribute of the engine's span: tokens generated."""
