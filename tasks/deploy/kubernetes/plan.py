"""Shows what ``deploy up`` would change, by a server-side dry run of every manifest."""

from __future__ import annotations

import difflib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from tasks.kube.client import Cluster, Object
from tasks.kube.errors import ForbiddenError, NotFoundError
from tasks.kube.manifest import APPLIED_ANNOTATION, Manifest

Action = Literal["create", "change", "unchanged", "unknown"]

SET_BY_SERVER = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
CONTEXT_LINES = 3
_MASK_KEY = secrets.token_bytes(16)


@dataclass(frozen=True)
class Change:
    """Planned change of one object. ``diff`` is a unified diff of YAML; ``reason`` says why it is unknown."""

    manifest: Manifest
    action: Action
    diff: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, str]:
        return {"object": str(self.manifest), "action": self.action, "diff": self.diff, "reason": self.reason}


def plan(cluster: Cluster, manifests: tuple[Manifest, ...]) -> tuple[Change, ...]:
    """Return one ``Change`` per manifest, in their order.

    The server cannot check objects whose namespace or CRD the plan itself would create: they are ``create``, and
    ``reason`` says so.

    Raises:
        ClusterError: the cluster cannot be asked, or it refuses a manifest.
    """
    return tuple(plan_one(cluster, manifest) for manifest in manifests)


def plan_one(cluster: Cluster, manifest: Manifest) -> Change:
    if cluster.address.in_cluster and manifest.is_administered(cluster.namespace):
        return Change(manifest, "unknown", reason="an administrator applies it from outside the cluster")
    try:
        live = cluster.get(manifest.api_version, manifest.kind, manifest.name, namespace=manifest.namespace)
    except NotFoundError as error:
        reason = f"its kind is not known to the cluster yet ({manifest.api_version})" if error.kind_missing else ""
        return _creation(cluster, manifest, reason)
    except ForbiddenError as error:
        return Change(manifest, "unknown", reason=str(error))
    if _was_applied(live, manifest):
        return Change(manifest, "unchanged")
    after = cluster.apply(manifest.document, dry_run=True)
    diff = _diff(live, after, str(manifest))
    return Change(manifest, "change" if diff else "unchanged", diff)


def changes_spec(cluster: Cluster, manifest: Manifest) -> bool:
    """Return whether applying it would change more than metadata of an existing object. Raises ClusterError."""
    live = cluster.find(manifest.api_version, manifest.kind, manifest.name, namespace=manifest.namespace)
    if live is None or _was_applied(live, manifest):
        return False
    after = cluster.apply(manifest.document, dry_run=True)
    return any(
        live.get(key) != after.get(key) for key in live.keys() | after.keys() if key not in ("metadata", "status")
    )


def _was_applied(live: Object, manifest: Manifest) -> bool:
    """Return whether ``live`` carries the manifest's fingerprint and its spec; an operator may have added fields."""
    annotations = live["metadata"].get("annotations") or {}
    return (
        bool(manifest.fingerprint)
        and annotations.get(APPLIED_ANNOTATION) == manifest.fingerprint
        and _contains(live.get("spec"), manifest.document.get("spec"))
    )


def _contains(live: Any, wanted: Any) -> bool:
    """Return whether ``live`` contains all of ``wanted``; lists must have equal lengths."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(key in live and _contains(live[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(_contains, live, wanted))
    return bool(live == wanted)


def text(changes: tuple[Change, ...]) -> str:
    """Return the changes as text: diffs, a line per new or unknown object, and counts."""
    marks = {"create": "+", "change": "~", "unknown": "?"}
    lines = []
    for change in changes:
        if change.action != "unchanged":
            note = f" ({change.reason})" if change.reason else ""
            lines.append(f"{marks[change.action]} {change.manifest}{note}")
        if change.action == "change":
            lines.append(change.diff)
    counts = {
        action: sum(change.action == action for change in changes) for action in ("create", "change", "unchanged")
    }
    unknown = sum(change.action == "unknown" for change in changes)
    lines.append(
        f"{counts['create']} to create, {counts['change']} to change, {counts['unchanged']} unchanged"
        + (f", {unknown} cannot be told" if unknown else "")
    )
    return "\n".join(lines)


def _creation(cluster: Cluster, manifest: Manifest, reason: str) -> Change:
    """Return the change for a new object, checked by the server where it can."""
    if reason:
        return Change(manifest, "create", reason=reason)
    try:
        cluster.apply(manifest.document, dry_run=True)
    except NotFoundError as error:
        if error.details.get("kind") != "namespaces":
            raise
        return Change(manifest, "create", reason="not checked: its namespace is not there yet")
    except ForbiddenError as error:
        return Change(manifest, "unknown", reason=str(error))
    return Change(manifest, "create")


def _diff(before: Object, after: Object, name: str) -> str:
    old, new = _readable(before), _readable(after)
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{name} (now)", f"{name} (then)", lineterm="", n=CONTEXT_LINES
    )
    return "\n".join(lines)


def _readable(document: Object) -> str:
    shown = {key: value for key, value in document.items() if key != "status"}
    metadata = {key: value for key, value in document["metadata"].items() if key not in SET_BY_SERVER}
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != LAST_APPLIED}
    if "annotations" in metadata:
        metadata["annotations"] = annotations
    shown["metadata"] = metadata
    if document.get("kind") == "Secret":
        shown |= {key: _masked(document[key]) for key in ("data", "stringData") if document.get(key)}
    return yaml.safe_dump(shown, sort_keys=True, width=120)


def _masked(values: dict[str, Any]) -> dict[str, str]:
    """Replace each value by a keyed hash, fresh in each run: it shows a change and hides the value."""
    marks = {key: hmac.digest(_MASK_KEY, str(value).encode(), "sha256").hex()[:8] for key, value in values.items()}
    return {key: f"<hidden {mark}>" for key, mark in marks.items()}
