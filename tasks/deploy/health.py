"""Health checks of the stack: does a port answer, does a completion come back through the gateway."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.error
import urllib.request

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opener that ignores the environment's proxies: the stack's network cannot reach them."""


def is_up(address: str, port: int, timeout_s: float = 1) -> bool:
    """Return whether something accepts TCP connections at ``address:port``."""
    try:
        with socket.create_connection((address, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def complete(url: str, model: str, timeout_s: float = 10) -> str | None:
    """Request one short completion; return None on success, else the problem."""
    body = json.dumps({"model": model, "prompt": "w1 w2 w3", "max_tokens": 4, "ignore_eos": True}).encode()
    request = urllib.request.Request(  # noqa: S310 (our own gateway)
        f"{url}/v1/completions", data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with DIRECT.open(request, timeout=timeout_s) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(getattr(error, "reason", None) or error)
    tokens = answer.get("usage", {}).get("completion_tokens", 0)
    return None if tokens == 4 else f"asked for 4 tokens, got {tokens}"
