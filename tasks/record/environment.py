"""The environment of the ``git`` and ``dvc`` commands that are started here.

git tells its hooks, aliases and filters by variables which repository, index and settings they are about. Inherited,
they would send a command that was told its repository elsewhere.
"""

from __future__ import annotations

import os
import re

_KEPT = re.compile(
    r"GIT_(?:(?:AUTHOR|COMMITTER)_(?:NAME|EMAIL)|ASKPASS|SSH.*|SSL_.*|HTTP_.*|CURL_.*|PROXY_.*|ALLOW_PROTOCOL|PROTOCOL.*"
    r"|EXEC_PATH|CONFIG_(?:GLOBAL|SYSTEM|NOSYSTEM))"
)
"""Variables that name the committer, how a remote is reached, and where git and its settings are."""


def own_environment(**changes: str) -> dict[str, str]:
    """Return this process's variables with ``changes`` and without those that tell git which repository, index, objects
    or settings to use (all ``GIT_…`` but a few)."""
    inherited = {name: value for name, value in os.environ.items() if not _is_redirection(name)}
    return {**inherited, "GIT_TERMINAL_PROMPT": "0", **changes}


def _is_redirection(name: str) -> bool:
    return name.startswith("GIT_") and not _KEPT.fullmatch(name)
