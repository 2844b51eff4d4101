"""How an object that an injection made says so, whatever its kind: labels to find it by, the injection's id."""

from __future__ import annotations

from typing import Any

from tasks.inject.executors.kubernetes.target import KubernetesTarget, in_words
from tasks.kube.manifest import stack_labels, stack_selector

INJECTION_LABEL = "rcarena.io/injection"
SERVICE_LABEL = "rcarena.io/service"
ID_ANNOTATION = "rcarena.io/injection-id"


def injected_metadata(target: KubernetesTarget, name: str, injection: str, injection_id: str) -> dict[str, Any]:
    """``metadata`` of an object in the stack's namespace. ``injection``: value of the label, a word for the id."""
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
    """Those of one kind that an injection made and that are there. Raises FaultError when the cluster does not say."""
    api = target.api() if deadline_s is None else target.api(deadline_s)
    selector = f"{stack_selector(target.namespace)},{INJECTION_LABEL}={injection}"
    with in_words(target):
        return api.list(api_version, kind, namespace=target.namespace, label_selector=selector)
