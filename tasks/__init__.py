"""RCArena: break a known component of an LLM inference stack and score which RCA method names it."""

import os

__version__ = "0.1.0"

# Arrow's own pool sets 16 MiB aside in every process and keeps them. Read when pyarrow is first imported.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
