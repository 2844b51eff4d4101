"""What the emulated API server fills in: a small part of what the real one does."""

from __future__ import annotations

import base64
from typing import Any

Object = dict[str, Any]

NO_STATUS = {
    "ConfigMap",
    "Secret",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
    "Event",
    "StorageClass",
    "RuntimeClass",
    "PriorityClass",
    "Lease",
    "Endpoints",
    "EndpointSlice",
    "LimitRange",
}

SET_BY_SERVER = (
    "uid",
    "creationTimestamp",
    "resourceVersion",
    "generation",
    "deletionTimestamp",
    "name",
    "namespace",
)


def fill_in(kind: str, document: Object, next_address: int) -> None:
    if kind == "Service":
        spec = document.setdefault("spec", {})
        spec.setdefault("type", "ClusterIP")
        spec.setdefault("clusterIP", f"10.96.0.{next_address}")
    elif kind == "Namespace":
        document.setdefault("status", {"phase": "Active"})
    elif kind in ("Deployment", "StatefulSet"):
        document.setdefault("spec", {}).setdefault("replicas", 1)
    elif kind == "Secret" and "stringData" in document:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in document.pop("stringData").items()}
        document["data"] = {**document.get("data", {}), **encoded}
    elif kind == "CustomResourceDefinition":
        document["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
