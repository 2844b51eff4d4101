"""The stack under test: its services and their roles, and what the section ``deploy`` of the parameters always has."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from tasks.identity import NO_TELEMETRY
from tasks.validation import Frozen

GATEWAY = "nginx-proxy"
HEAD = "ray-head"
REPLICA_PREFIX = "ray-replicas-"

Role = Literal["gateway", "head", "replica", "service"]
ALL_ROLES: frozenset[Role] = frozenset({"gateway", "head", "replica"})
"""The roles of a stack of ours; a service of another one is just a ``service``."""
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class StackParams(Frozen):
    """Base of the section ``deploy`` of every backend. ``stacks``: how many stacks a campaign uses side by side."""

    replicas: Annotated[int, Field(ge=1, le=64)]
    backend: str
    stacks: Annotated[int, Field(ge=1, le=64), NO_TELEMETRY] = 1

    @property
    def stack_count(self) -> int:
        return self.stacks

    def of_stack(self, index: int | None) -> Self:
        """Return the parameters of one of several stacks; ``index`` None: those of the only one. A backend that can
        have several says here how they differ."""
        return self

    @property
    def slowest_scrape_s(self) -> float:
        """Longest time between two samples of a metric; 0 when nothing is scraped."""
        return 0.0

    def roles(self) -> dict[str, Role]:
        """Role of each service, in the order gateway, head, replicas."""
        roles: dict[str, Role] = {GATEWAY: "gateway", HEAD: "head"}
        roles.update({f"{REPLICA_PREFIX}{i}": "replica" for i in range(self.replicas)})
        return roles

    def service_names(self) -> tuple[str, ...]:
        """Return the services: the RCA candidates."""
        return tuple(self.roles())
