"""Labels and annotations of the objects that an injection creates, and finding them by these."""

from __future__ import annotations

from typing import Any

from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes.target import KubernetesTarget, translate_errors
from tasks.kube.errors import ConflictError, NotFoundError
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


def create_injected(target: KubernetesTarget, document: dict[str, Any], without_kind: str) -> bool:
    """Create an object; false when there is one of its name already (a lost answer, a retry).

    Raises:
        FaultError: it cannot be created, for the reason ``without_kind`` if the cluster does not have its kind.
    """
    with translate_errors(target):
        try:
            target.api().create(document)
        except ConflictError as error:
            if not error.already_exists:
                raise
            return False
        except NotFoundError as error:
            if error.kind_missing:
                raise FaultError(f"{target.name}: {without_kind}") from error
            raise
    return True


def injected_objects(
    target: KubernetesTarget, api_version: str, kind: str, injection: str, deadline_s: float
) -> list[dict[str, Any]]:
    """Return the objects of one kind that an injection created. Raises FaultError when they cannot be listed."""
    selector = f"{stack_selector(target.namespace)},{INJECTION_LABEL}={injection}"
    with translate_errors(target):
        return target.api(deadline_s).list(api_version, kind, namespace=target.namespace, label_selector=selector)
