"""Labels and annotations of the objects that an injection creates, and finding them by these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes.target import REQUEST_DEADLINE_S, KubernetesTarget, translate_errors
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


@dataclass(frozen=True)
class InjectedObjects:
    """The objects of one kind and one injection; ``injection`` is the value of their label and the beginning of their
    names.

    Every method raises FaultError when the cluster does not do what is asked.
    """

    api_version: ClassVar[str]
    kind: ClassVar[str]
    target: KubernetesTarget
    injection: str

    def document(self, injection_id: str, number: int, spec: dict[str, Any]) -> dict[str, Any]:
        metadata = injected_metadata(self.target, f"{self.injection}-{number}", self.injection, injection_id)
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata, "spec": spec}

    def all(self, deadline_s: float = REQUEST_DEADLINE_S) -> list[dict[str, Any]]:
        selector = f"{stack_selector(self.target.namespace)},{INJECTION_LABEL}={self.injection}"
        with translate_errors(self.target):
            return self.target.api(deadline_s).list(
                self.api_version, self.kind, namespace=self.target.namespace, label_selector=selector
            )
