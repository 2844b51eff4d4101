"""What a method costs, as `rcarena methods` says; a test compares. Workers cannot ask: they have no pandas."""

from __future__ import annotations

EXPENSIVE = frozenset({"causalrca"})
MODERATE = frozenset(
    {"fci_pagerank", "fci_randomwalk", "lingam_pagerank", "lingam_randomwalk", "pc_pagerank", "pc_randomwalk"}
)


def cost_of(entry: str) -> str:
    """Of an entry of ``score.methods``: ``name`` or ``name@profile``."""
    method = entry.partition("@")[0]
    if method in EXPENSIVE:
        return "expensive"
    return "moderate" if method in MODERATE else "cheap"
