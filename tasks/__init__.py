"""RCArena: break a known component of an LLM inference stack and score which RCA method names it."""

__version__ = "0.1.0"
