"""A Kubernetes object as plain data, and the labels of our objects."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
PART_OF_LABEL = "app.kubernetes.io/part-of"
STACK_LABEL = "rcarena.io/stack"
OWNER = "rcarena"
SHARED_LABELS = {MANAGED_BY_LABEL: OWNER, PART_OF_LABEL: OWNER}
"""Labels of objects that all stacks of a cluster share."""
APPLIED_ANNOTATION = "rcarena.io/applied"
"""Annotation of an object whose operator rewrites its spec; its value is the fingerprint of what we sent."""

ACCOUNTS_AND_RIGHTS = frozenset({"ServiceAccount", "Role", "RoleBinding"})


def stack_labels(namespace: str) -> dict[str, str]:
    """Return the labels that every object of ours carries; ``deploy down`` removes only what has all three."""
    return {MANAGED_BY_LABEL: OWNER, PART_OF_LABEL: OWNER, STACK_LABEL: namespace}


def stack_selector(namespace: str) -> str:
    """Return ``stack_labels`` as a label selector."""
    return ",".join(f"{key}={value}" for key, value in stack_labels(namespace).items())


SHARED_SELECTOR = ",".join(f"{key}={value}" for key, value in SHARED_LABELS.items())


@dataclass(frozen=True)
class Manifest:
    """A document as it is sent to the API server. ``namespace`` is None for what belongs to the whole cluster."""

    document: dict[str, Any]

    @property
    def api_version(self) -> str:
        return str(self.document["apiVersion"])

    @property
    def kind(self) -> str:
        return str(self.document["kind"])

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])

    @property
    def namespace(self) -> str | None:
        namespace = self.document["metadata"].get("namespace")
        return None if namespace is None else str(namespace)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Identify the object: API group, kind, namespace (empty for none) and name."""
        group = self.api_version.rpartition("/")[0]
        return group, self.kind, self.namespace or "", self.name

    def is_administered(self, namespace: str) -> bool:
        """Tell whether only an administrator applies it: accounts, rights, and whatever is outside ``namespace``, the
        stack's."""
        return self.namespace != namespace or self.kind in ACCOUNTS_AND_RIGHTS

    @property
    def fingerprint(self) -> str:
        """Return the value of ``APPLIED_ANNOTATION``, empty without one."""
        return str((self.document["metadata"].get("annotations") or {}).get(APPLIED_ANNOTATION, ""))

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def with_fingerprint(document: dict[str, Any]) -> dict[str, Any]:
    """Return ``document`` with ``APPLIED_ANNOTATION``: equal documents have equal fingerprints."""
    text = json.dumps(document, sort_keys=True, default=str)
    metadata = document["metadata"]
    annotations = {**(metadata.get("annotations") or {}), APPLIED_ANNOTATION: hashlib.sha256(text.encode()).hexdigest()}
    return {**document, "metadata": {**metadata, "annotations": annotations}}
