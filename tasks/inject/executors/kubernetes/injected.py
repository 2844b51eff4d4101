"""Labels and annotations of the objects that an injection creates, and finding them by these."""

from __future__ import annotations

from typing import Any

from tasks.inject.executors.kubernetes.target import KubernetesTarget, translate_errors
from tasks.kube.manifest import stack_labels, stack_selector

INJECTION_LABEL = "rcarena.io/injection"
SERVICE_LABEL = "rcarena.io/service"
ID_ANNOTATION = "rcarena.io/injection-id"


def injected_metadata(target: KubernetesTarget, name: str, injection: str, injection_id: str) -> dict[str, Any]:
    """Return ``metadata`` of an object in the stack's namespace. ``injection``: value of the label, made of the id."""
    return {
        "name": name,
        "namespace": target.namespace,
        "labels": {
            **stack_labels(target.namespace),
            INJECTION_LABEL: injection,
            SERVICE_LABEL: target.service,
        },
        "annotations": {ID_ANNOTATION: injection_id},
    }


def injected_objects(
    target: KubernetesTarget, api_version: str, kind: str, injection: str, deadline_s: float | None = None
) -> list[dict[str, Any]]:
    """Return the objects of one kind that an injection created. Raises FaultError when they cannot be listed."""
    api = target.api() if deadline_s is None else target.api(deadline_s)
    selector = f"{stack_selector(target.namespace)},{INJECTION_LABEL}={injection}"
    with translate_errors(target):
        return api.list(api_version, kind, namespace=target.namespace, label_selector=selector)
