"""The registry of actions, and the table of what cures what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.actions.executor import ActionExecutor
from tasks.backends import BACKENDS, actions_on
from tasks.inject.catalogue import FAULT_KINDS, fault_kind
from tasks.plugins import Registry
from tasks.stack import ALL_ROLES, Role
from tasks.text import suggest

WORKLOAD = "workload"
"""The kind of a finding that blames the load and no service."""

UNKNOWN = "unknown"
"""The kind of a root whose evidence fits no kind."""


@dataclass(frozen=True)
class ActionKind:
    """One action.

    ``summary``: what it changes. ``undo``, ``needs``: texts on the way back and on what must hold before. ``cures``:
    kind of fault -> preference among the actions that end its harm, 1 first. ``never``: kinds that it cannot cure.
    ``capacity``: its target serves nothing while it acts or lasts. ``restarts``: its target ends and starts again.
    """

    name: str
    summary: str
    undo: str
    needs: str
    cures: Mapping[str, int]
    never: frozenset[str]
    executors: Mapping[str, type[ActionExecutor[Any]]]
    roles: frozenset[Role] = ALL_ROLES
    capacity: bool = True
    restarts: bool = False

    @property
    def backends(self) -> tuple[str, ...]:
        """Backends with an executor for this action."""
        others = {name for name, backend in BACKENDS.all().items() if self.name in backend.actions().executors}
        return (*self.executors, *sorted(others - set(self.executors)))

    @property
    def made_by(self) -> tuple[str, ...]:
        """Backends that carry it out within the cases that they make."""
        return tuple(name for name in sorted(BACKENDS.all()) if self.name in actions_on(name).in_cases)

    def executor(self, backend: str) -> type[ActionExecutor[Any]] | None:
        """Return the backend's executor; None when it has none."""
        return self.executors.get(backend) or actions_on(backend).executors.get(self.name)

    def roles_on(self, backend: str) -> frozenset[Role]:
        """Return the roles that the backend can act on."""
        found = self.executor(backend)
        return self.roles if found is None or found.roles is None else found.roles & self.roles

    def can_cure(self, kind: str) -> bool:
        """Return whether the table says that the action ends the harm of this kind of fault."""
        return self.preference(kind) is not None

    def preference(self, kind: str) -> int | None:
        """Return the place of the action among those that cure ``kind``, or the group of a kind that is not named."""
        return self.cures.get(kind, self.cures.get(group_of(kind)))


def group_of(kind: str) -> str:
    """Return the kind that telemetry can tell; ``kind`` itself where it is no fault kind."""
    return fault_kind(kind).group if kind in FAULT_KINDS and not FAULT_KINDS.problem(kind) else kind


def action_problems(action: ActionKind) -> list[str]:
    """Return the required fields that this action lacks, one line each."""
    problems = [
        f"it must say its {name}" for name in ("summary", "undo", "needs", "roles") if not getattr(action, name)
    ]
    problems += [] if action.cures else ["it must name a kind that it cures"]
    known = {*FAULT_KINDS.names(), WORKLOAD, UNKNOWN}
    named = {*action.cures, *action.never}
    problems += [f"unknown kind '{each}'; {suggest(each, known)}" for each in sorted(named - known)]
    problems += [f"it cannot both cure {each} and never cure it" for each in sorted(action.cures.keys() & action.never)]
    return problems


ACTIONS: Registry[ActionKind] = Registry("action", "rcarena.actions", ["tasks.actions.kinds"], action_problems)


def register(action: ActionKind, module: str) -> ActionKind:
    """Register an action; called by the file that defines it, with its ``__name__``.

    Raises:
        ValueError: another file has registered it.
    """
    ACTIONS.register(action.name, action, module)
    return action


def list_actions() -> list[ActionKind]:
    """Return all usable actions, sorted by name."""
    return [action for _, action in sorted(ACTIONS.all().items())]


def find_action(name: str) -> ActionKind:
    """Return the action called ``name``. Raises KeyError (the message names the allowed ones), PluginError."""
    return ACTIONS.get(name)


def cures_of(kind: str) -> dict[int, ActionKind]:
    """Return the actions that end the harm of a kind, by preference from 1. Without a 1 the first choice is to wait:
    the platform cures it by itself."""
    return {place: action for action in list_actions() if (place := action.preference(kind)) is not None}


def table() -> dict[str, tuple[dict[int, str], list[str]]]:
    """Return kind -> (place -> action that cures it, actions that never do), for every kind that some action names."""
    actions = list_actions()
    kinds = sorted({kind for each in actions for kind in (*each.cures, *each.never)})
    return {
        kind: (
            {place: action.name for place, action in sorted(cures_of(kind).items())},
            [each.name for each in actions if kind in each.never],
        )
        for kind in kinds
    }


def clashes(actions: Iterable[ActionKind]) -> list[str]:
    """Return kinds for which two actions claim the same place, one line each."""
    claimed: dict[tuple[str, int], list[str]] = {}
    for action in actions:
        for kind, place in action.cures.items():
            claimed.setdefault((kind, place), []).append(action.name)
    return [
        f"{kind}: {' and '.join(names)} are both number {place}"
        for (kind, place), names in claimed.items()
        if names[1:]
    ]
