"""What looking at somebody else's stack found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tasks.stack import Role

LONGEST_NAME = 58
"""Leaves room for the number of a replica."""


@dataclass(frozen=True)
class Component:
    """Some units (pods, instances, replicas of Ray) that do the same.

    Args:
        kind: what they were recognised as, for people.
        units: names of the units, sorted.
        each: label whose value is a unit's name.
        labels: labels that all of its series have; values as in ``LabelMatch``.
        alternatives: unit -> further labels by which other exporters name it.
        model: the name of the model, where it is known.
        where: where it comes from, such as a controller on Kubernetes.
    """

    name: str
    role: Role
    kind: str
    units: tuple[str, ...]
    each: str
    labels: dict[str, str]
    alternatives: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    engine: str | None = None
    model: str | None = None
    version: str | None = None
    where: str = ""
    selector: str | None = None
    container: str | None = None

    @property
    def services(self) -> list[dict[str, Any]]:
        """Entries of ``deploy.services``. Units with alternatives get one each: nothing else joins their labels."""
        pods = {"selector": self.selector, "container": self.container} if self.selector else {}
        if self.alternatives:
            names = [self.name] if len(self.units) == 1 else [f"{self.name}-{i}" for i in range(len(self.units))]
            return [
                {
                    "name": name,
                    "role": self.role,
                    "labels": [{**self.labels, self.each: unit}, *self.alternatives.get(unit, [])],
                    **pods,
                }
                for name, unit in zip(names, self.units, strict=True)
            ]
        number = {"replicas": len(self.units)} if len(self.units) > 1 else {}
        return [{"name": self.name, "role": self.role, **number, "each": self.each, "labels": [self.labels], **pods}]


@dataclass(frozen=True)
class Finding:
    """The recognised components, ``kinds`` of deployment, and remarks for people, one line each."""

    kinds: tuple[str, ...]
    components: tuple[Component, ...]
    remarks: tuple[str, ...] = ()
    gateway_url: str | None = None
    prometheus_url: str | None = None
    traces: tuple[str, str] | None = None
    """Kind and URL of a server that holds spans."""


def dns_label(text: str) -> str:
    """Return ``text`` as the name of a service."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LONGEST_NAME].strip("-") or "service"


def unique_names(components: list[Component]) -> tuple[Component, ...]:
    """Number the components whose names are taken."""
    from dataclasses import replace

    taken: set[str] = set()
    found = []
    for component in components:
        name, number = component.name, 2
        while name in taken:
            name, number = f"{component.name}-{chr(ord('a') + number - 1)}", number + 1
        taken.add(name)
        found.append(replace(component, name=name))
    return tuple(found)
