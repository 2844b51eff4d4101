"""The section ``deploy`` of the parameters for a simulated stack."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.stack import REPLICA_PREFIX, StackParams
from tasks.validation import Frozen

GATEWAY_INDEX, HEAD_INDEX, FIRST_REPLICA = 0, 1, 2
"""Places of services in every list of them."""

Routing = Literal["power-of-two", "round-robin", "least-loaded"]


class ReplicaGroup(Frozen):
    """Replicas of one model. ``tensor``, ``pipeline``: GPUs that share each layer, and that hold different layers;
    ``step_factor``: length of a decode step against the calibration's; ``load_share``: its share of the requests
    against other groups' (None: as its share of the replicas)."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    replicas: Annotated[int, Field(ge=1, le=10_000)]
    tensor: Annotated[int, Field(ge=1, le=64)] = 1
    pipeline: Annotated[int, Field(ge=1, le=64)] = 1
    step_factor: Annotated[float, Field(gt=0, le=1000)] = 1
    load_share: Annotated[float, Field(gt=0)] | None = None

    @property
    def devices(self) -> int:
        return self.tensor * self.pipeline


class SimulatedDeployParams(StackParams):
    """A stack that is computed, not run. ``calibration``: the name of one that comes with the project, or a file.

    ``missed_scrapes``: share of the scrapes that fail; ``trace_share``: share of the requests that leave spans;
    ``spare_replicas``: how many more replicas there are accelerators for (the action scale-out adds them).
    """

    backend: Literal["simulated"]
    replicas: Annotated[int, Field(ge=1, le=10_000)]
    calibration: str = "local-toy"
    routing: Routing = "power-of-two"
    groups: tuple[ReplicaGroup, ...] = ()
    gpus_per_node: Annotated[int, Field(ge=1, le=64)] = 8
    scrape_interval_s: Annotated[float, Field(ge=0.5, le=300)] = 1
    scrape_jitter_s: Annotated[float, Field(ge=0, le=10)] = 0.05
    missed_scrapes: Annotated[float, Field(ge=0, lt=1)] = 0.002
    trace_share: Annotated[float, Field(gt=0, le=1)] = 1
    spare_replicas: Annotated[int, Field(ge=0, le=1000)] = 0

    @model_validator(mode="after")
    def _groups_fill_the_fleet(self) -> Self:
        if self.groups and (total := sum(group.replicas for group in self.groups)) != self.replicas:
            raise ValueError(f"groups: their replicas must add up to replicas ({self.replicas}; got {total})")
        if self.groups and self.spare_replicas:
            raise ValueError("spare_replicas: must be 0 with groups, since nothing says which model a spare one serves")
        return self

    @property
    def slowest_scrape_s(self) -> float:
        return self.scrape_interval_s

    @property
    def replica_groups(self) -> tuple[ReplicaGroup, ...]:
        return self.groups or (ReplicaGroup(name="all", replicas=self.replicas),)

    def spare_names(self) -> tuple[str, ...]:
        """Return the names that replicas get when they are added."""
        return tuple(f"{REPLICA_PREFIX}{self.replicas + i}" for i in range(self.spare_replicas))

    def of_stack(self, index: int | None) -> Self:
        """Return the same parameters: simulated stacks have nothing in common."""
        return self
