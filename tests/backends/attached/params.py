"""Parameters of an attached stack."""

from __future__ import annotations

from typing import Any


def attached(url: str, services: list[dict[str, Any]], scrape_interval_s: float = 1, **deploy: Any) -> dict[str, Any]:
    """Return a campaign without faults on a stack whose Prometheus is at ``url``."""
    window = 4 * scrape_interval_s
    section = {"backend": "attached", "prometheus": {"url": url}, "services": services, **deploy}
    return {
        "campaign": {
            "name": "attached",
            "seed": 1,
            "windows": {"warmup_s": window, "baseline_s": 60, "fault_s": 60, "recovery_s": 10},
        },
        "deploy": {"scrape_interval_s": scrape_interval_s, **section},
        "load": {"arrival": "constant", "rate": 1},
        "inject": {"faults": []},
        "export": {"step_s": scrape_interval_s, "rate_window_s": window},
        "score": {"methods": ["nsigma"], "profile": "llm"},
        "report": {},
    }
