"""The environment of the ``git`` and ``dvc`` commands.

git passes repository, index and settings to its hooks, aliases and filters in variables. If inherited, they would
redirect a command to another repository.
"""

from __future__ import annotations

import os
import re

_KEPT = re.compile(
    r"GIT_(?:(?:AUTHOR|COMMITTER)_(?:NAME|EMAIL)|ASKPASS|SSH.*|SSL_.*|HTTP_.*|CURL_.*|PROXY_.*|ALLOW_PROTOCOL|PROTOCOL.*"
    r"|EXEC_PATH|CONFIG_(?:GLOBAL|SYSTEM|NOSYSTEM))"
)
"""``GIT_…`` variables that are inherited: committer, access to remotes, locations of git and its settings."""


def own_environment(**changes: str) -> dict[str, str]:
    """Return this process's variables with ``changes``, without those that select git's repository, index, objects or
    settings."""
    inherited = {name: value for name, value in os.environ.items() if not _is_redirection(name)}
    return {**inherited, "GIT_TERMINAL_PROMPT": "0", **changes}


def _is_redirection(name: str) -> bool:
    return name.startswith("GIT_") and not _KEPT.fullmatch(name)
