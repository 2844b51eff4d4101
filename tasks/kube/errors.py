"""Errors of a cluster and of the way to it. No message holds a credential."""

from __future__ import annotations

import http.client
import json
from typing import Any

from tasks.errors import RCArenaError


class ClusterError(RCArenaError):
    """The cluster did not do what was asked. ``status`` is the HTTP status, None when there was no answer."""

    def __init__(self, message: str, status: int | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.details = details or {}


class NoClusterError(ClusterError):
    """No kubeconfig, an unknown context, or credentials that cannot be made."""


class UnreachableError(ClusterError):
    """No usable answer until the deadline: refused, timed out, truncated, or server errors all along."""


class ExpiredError(ClusterError):
    """401: the credentials were refused, also after they were read again."""


class ForbiddenError(ClusterError):
    """403: these credentials may not do that."""


class NotFoundError(ClusterError):
    """404. ``kind_missing``: the cluster knows no such kind (a CRD is not installed)."""

    @property
    def kind_missing(self) -> bool:
        return not self.details.get("name")


class ConflictError(ClusterError):
    """409: the object exists already, or it changed since it was read, or others own a field of it."""

    @property
    def already_exists(self) -> bool:
        return self.details.get("reason") == "AlreadyExists"


class InvalidError(ClusterError):
    """400 or 422: the object breaks the schema or an admission rule. ``fields`` names what was refused."""

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(str(cause["field"]) for cause in self.details.get("causes") or () if cause.get("field"))


_BY_STATUS: dict[int, type[ClusterError]] = {
    400: InvalidError,
    401: ExpiredError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    422: InvalidError,
}
_CURES = {
    401: "the credentials are refused: log in to the cluster again (or renew the token of the kubeconfig)",
    403: "ask for the permission, or use a context that has it (`rcarena preflight` lists what is needed)",
}


def error_of(status: int, body: bytes, action: str, where: str) -> ClusterError:
    """Return the error for an answer without success: ``action`` is what was asked, ``where`` names the cluster."""
    answer = _status_object(body)
    details = {**(answer.get("details") or {}), "reason": answer.get("reason")}
    message = message_of(status, body)
    cure = f"; {_CURES[status]}" if status in _CURES else ""
    return _BY_STATUS.get(status, ClusterError)(f"{action}: {message}{cure} ({where})", status, details)


def message_of(status: int, body: bytes) -> str:
    """Return the server's message in one line."""
    said = str(_status_object(body).get("message") or "").strip() or body.decode(errors="replace").strip()
    return said.splitlines()[0][:500] if said else http.client.responses.get(status, "no reason given")


def _status_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) and answer.get("kind") == "Status" else {}
