"""The custom resource ``NodeFault``: an injector's order to a node, and the answer of the node's agent.

An injector creates one, waits for ``status.phase`` Active, and deletes it to end the fault: the object is gone when its
effect is gone, because the agent holds a finalizer until it has restored the node.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

GROUP = "rcarena.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "NodeFault"
PLURAL = "nodefaults"
FINALIZER = f"{GROUP}/node-agent"

GPU_MAP_LABEL = f"{GROUP}/gpu-map"
"""Label of the ConfigMap in which each agent publishes which pods compute on which of its GPUs."""
GPU_MAP_KEY = "gpus.json"

Action = Literal["power-limit", "clock-lock", "restore-limits", "engine-pause", "engine-kill"]
Phase = Literal["Pending", "Active", "Restored", "Failed"]
LIMITS: frozenset[Action] = frozenset({"power-limit", "clock-lock"})
"""What an amount is given for, and ``restore-limits`` takes back, whoever did it."""
ENGINE_ACTIONS: frozenset[Action] = frozenset({"engine-pause", "engine-kill"})


class NodeFaultError(ValueError):
    """An object is not a NodeFault that can be carried out; the message names the field."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False)

    def document(self) -> dict[str, Any]:
        """Return the document of the API: camel case, without fields that are not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


_RULES = [
    {"rule": "self == oldSelf", "message": "a fault cannot be changed; delete it and make another"},
    {
        "rule": f"self.action in {sorted(LIMITS)} ? has(self.value) != has(self.fraction) : "
        "!has(self.value) && !has(self.fraction)",
        "message": "power-limit and clock-lock need either value or fraction, the other actions neither",
    },
]
"""What the API server checks beyond types."""


class NodeFaultSpec(_Model):
    """What an injector asks for. It cannot be changed."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": _RULES})  # type: ignore[dict-item]

    action: Action
    node_name: Annotated[str, Field(min_length=1)]
    pod_uid: Annotated[str, Field(min_length=1)]
    pod_name: str
    gpu_uuid: Annotated[str | None, Field(description="One GPU of the pod; without it, all of them.")] = None
    value: Annotated[float | None, Field(gt=0, description="Watts (power-limit) or MHz (clock-lock).")] = None
    fraction: Annotated[
        float | None, Field(gt=0, le=1, description="Of the default power limit, or of the highest SM clock.")
    ] = None
    duration_seconds: Annotated[
        float, Field(gt=0, le=86_400, description="The node's agent restores after it by its own clock, in any case.")
    ]

    @model_validator(mode="after")
    def _amount_fits_action(self) -> Self:
        given = (self.value is not None) + (self.fraction is not None)
        if self.action in LIMITS and given != 1:
            raise ValueError(f"{self.action} needs either value or fraction")
        if self.action not in LIMITS and given:
            raise ValueError(f"{self.action} takes neither value nor fraction")
        return self

    def amount(self, whole: float) -> float:
        """Return watts or MHz; ``whole`` is what a fraction refers to."""
        if self.value is not None:
            return self.value
        assert self.fraction is not None
        return self.fraction * whole


class SavedGpu(_Model):
    """A GPU before the fault (``old_watts``), its limits, and what was set."""

    uuid: str
    old_watts: float | None = None
    min_watts: float | None = None
    default_watts: float | None = None
    max_watts: float | None = None
    set_watts: float | None = None
    max_mhz: float | None = None
    set_mhz: float | None = None


class SavedProcess(_Model):
    """A process by an identity that survives pid reuse: its start in clock ticks since boot."""

    pid: int
    start_ticks: int
    name: str


class Saved(_Model):
    """The state before the fault: all that a restore needs."""

    gpus: tuple[SavedGpu, ...] = ()
    processes: tuple[SavedProcess, ...] = ()


class NodeFaultStatus(_Model):
    phase: Phase = "Pending"
    saved: Saved | None = None
    applied_at: datetime | None = None
    restored_at: datetime | None = None
    message: str = ""


class NodeFault(_Model):
    """A NodeFault as it was read from the API."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    created_at: datetime
    deleted: bool
    finalizers: tuple[str, ...]
    spec: NodeFaultSpec
    status: NodeFaultStatus

    @classmethod
    def of(cls, document: dict[str, Any]) -> NodeFault:
        """Raises NodeFaultError when ``document`` does not follow the schema (made before the schema was installed)."""
        metadata = document["metadata"]
        try:
            return cls(
                name=metadata["name"],
                namespace=metadata["namespace"],
                uid=metadata["uid"],
                resource_version=metadata.get("resourceVersion", ""),
                created_at=metadata["creationTimestamp"],
                deleted=metadata.get("deletionTimestamp") is not None,
                finalizers=tuple(metadata.get("finalizers") or ()),
                spec=NodeFaultSpec.model_validate(document["spec"]),
                status=NodeFaultStatus.model_validate(document.get("status") or {}),
            )
        except (KeyError, ValidationError) as error:
            raise NodeFaultError(f"{KIND} {metadata.get('name')}: {_first_problem(error)}") from error


def _first_problem(error: KeyError | ValidationError) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]}: missing"
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"])
    return f"{where}: {detail['msg']}" if where else str(detail["msg"])
