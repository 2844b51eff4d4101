"""The registry of fault kinds, and validation of injections."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tasks.backends import BACKENDS, faults_on
from tasks.inject.executor import FaultExecutor, FaultParameters
from tasks.injection import InjectionSpec, PlannedInjection
from tasks.metrics import Metric
from tasks.params import AskedCase, Params
from tasks.plugins import Registry
from tasks.stack import Role, StackParams
from tasks.text import suggest
from tasks.validation import validation_problems


@dataclass(frozen=True)
class FaultKind:
    """One kind of fault.

    ``executors``: backend -> executor; a backend can add executors for kinds that do not name it (``FaultSupport``).
    ``resources``: parts of a service used exclusively; two faults that share one cannot act on a service at the same
    time. ``probe``, ``signals``: texts on how the effect is measured and where it shows. ``metrics``: metrics of the
    target that show the fault, the truth at metric level. ``group``: the kind that telemetry can tell; kinds that
    differ only in how they are done share it. ``root_allowed`` False: it is never the cause of what users see, so an
    injection of it may only be a disturbance.
    """

    name: str
    summary: str
    parameters: type[FaultParameters]
    roles: frozenset[Role]
    resources: frozenset[str]
    probe: str
    signals: str
    metrics: tuple[Metric, ...]
    executors: Mapping[str, type[FaultExecutor[Any, Any]]]
    group: str = ""
    root_allowed: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.name)

    @property
    def backends(self) -> tuple[str, ...]:
        """Backends with an executor for this kind."""
        others = {name for name, backend in BACKENDS.all().items() if self.name in backend.faults().executors}
        return (*self.executors, *sorted(others - set(self.executors)))

    def runs_on(self, backend: str) -> bool:
        """Return whether a backend has an executor; imports only that backend."""
        return self._on(backend) is not None

    def executor(self, backend: str) -> type[FaultExecutor[Any, Any]]:
        """Return the backend's executor. Raises KeyError when it has none."""
        found = self._on(backend)
        if found is None:
            raise KeyError(f"{self.name} on {backend}")
        return found

    def defaults(self, backend: str) -> dict[str, Any]:
        """Return the backend's defaults that differ from the model's."""
        found = self._on(backend)
        return dict(found.defaults) if found else {}

    def roles_on(self, backend: str) -> frozenset[Role]:
        """Return the roles that the backend can act on."""
        found = self._on(backend)
        return self.roles if found is None or found.roles is None else found.roles & self.roles

    def group_on(self, backend: str) -> str:
        """Return the kind that telemetry can tell on the backend."""
        found = self._on(backend)
        return found.group if found is not None and found.group else self.group

    def _on(self, backend: str) -> type[FaultExecutor[Any, Any]] | None:
        return self.executors.get(backend) or faults_on(backend).executors.get(self.name)


def kind_problems(kind: FaultKind) -> list[str]:
    """Return the required fields that this kind lacks, one line each."""
    problems = [
        f"it must say its {name}" for name in ("summary", "probe", "signals", "roles") if not getattr(kind, name)
    ]
    problems += [] if kind.backends else ["no backend can carry it out"]
    problems += [
        f"its metric {each!r} must be one of tasks.metrics" for each in kind.metrics if type(each) is not Metric
    ]
    problems += [
        f"its parameter '{name}' must have a description"
        for name, field in kind.parameters.model_fields.items()
        if not field.description
    ]
    for backend in kind.backends:
        problems += _parameter_problems(kind, {}, kind.name, backend)
    return problems


FAULT_KINDS: Registry[FaultKind] = Registry("fault", "rcarena.faults", ["tasks.inject.faults"], kind_problems)


def register(kind: FaultKind) -> FaultKind:
    """Register a kind; called by the file that defines it.

    Raises:
        ValueError: another file has registered it.
    """
    FAULT_KINDS.register(kind.name, kind, kind.parameters.__module__)
    return kind


def list_fault_kinds() -> list[FaultKind]:
    """Return all usable kinds, sorted by name."""
    return [kind for _, kind in sorted(FAULT_KINDS.all().items())]


def fault_kind(name: str) -> FaultKind:
    """Return the kind called ``name``.

    Raises:
        KeyError: there is none.
        PluginError: another package provides it, and it is unusable.
    """
    return FAULT_KINDS.get(name)


def fault_kind_names(backend: str | None = None) -> list[str]:
    """Return the names of all kinds, or of those that a backend can carry out."""
    return [kind.name for kind in list_fault_kinds() if backend is None or kind.runs_on(backend)]


def validate_injection(
    kind: str,
    target: str,
    parameters: Mapping[str, Any],
    roles: Mapping[str, Role],
    key: str,
    *,
    backend: str,
) -> list[str]:
    """Return the problems of one injection, one line each; empty when it can be carried out.

    ``key``: name of the target's parameter in problems; other keys are its siblings.
    """
    where = key.rpartition(".")[0]
    if kind not in FAULT_KINDS:
        return [f"{where}.kind: unknown fault '{kind}'; {suggest(kind, fault_kind_names(backend))}"]
    if unusable := FAULT_KINDS.problem(kind):
        return [f"{where}.kind: {unusable}"]
    known = fault_kind(kind)
    if not known.runs_on(backend):
        return [f"{where}.kind: the {backend} backend has no {kind}; {suggest(kind, fault_kind_names(backend))}"]
    return [
        *_target_problems(known, target, roles, key, backend),
        *_parameter_problems(known, parameters, where, backend),
    ]


def validate_overlaps(planned: Mapping[str, PlannedInjection]) -> list[str]:
    """Return the problems of injections that need the same part of a service at the same time; keys name them."""
    problems = []
    for (other_where, other), (where, one) in itertools.combinations(planned.items(), 2):
        if one.target != other.target or one.offset_s >= other.end_s or other.offset_s >= one.end_s:
            continue
        if FAULT_KINDS.problem(one.kind) or FAULT_KINDS.problem(other.kind):
            continue
        shared = fault_kind(one.kind).resources & fault_kind(other.kind).resources
        if shared:
            clash = clash_text(one.kind, other.kind, other_where, shared, one.target)
            problems.append(f"{where}: {clash}; use another target or another time")
    return problems


def clash_text(kind: str, other: str, other_name: str, shared: Iterable[str], target: str) -> str:
    """Return the problem of two simultaneous injections that need the ``shared`` parts of ``target``."""
    parts = " and ".join(sorted(shared))
    return f"{kind} and {other} ({other_name}) both need the {parts} of {target} at the same time"


def validate_inject_params(params: Params) -> list[str]:
    """Return the problems of the section ``inject``, one line each."""
    roles, window = params.deploy.roles(), params.campaign.windows.fault_s
    problems: dict[str, None] = {}  # a problem of parameters is reported once per kind, not per target
    for case in params.inject.cases():
        for key, spec in case.injections.items():
            found = validate_injection(
                spec.kind, spec.target, spec.parameters, roles, key, backend=params.deploy.backend
            )
            found = found or _role_problems(spec, key) or _unable_problems(params.deploy, spec, key)
            problems |= dict.fromkeys(_in_the_ladder(problem, key, case) for problem in found)
        planned = {
            key.rpartition(".")[0]: spec.planned(window, spec.parameters) for key, spec in case.injections.items()
        }
        problems |= dict.fromkeys(validate_overlaps(planned))
    return list(problems)


def _role_problems(spec: InjectionSpec, key: str) -> list[str]:
    if spec.role == "disturbance" or fault_kind(spec.kind).root_allowed:
        return []
    where, _, asked = key.rpartition(".")
    cure = "allowed: disturbance" if asked == "target" else "ask for it in inject.scenarios, with role: disturbance"
    return [f"{where}.{'role' if asked == 'target' else 'kind'}: {spec.kind} is never a cause; {cure}"]


def _unable_problems(deploy: StackParams, spec: InjectionSpec, key: str) -> list[str]:
    reason = faults_on(deploy.backend).unable(deploy, spec.kind)
    return [f"{key.rpartition('.')[0]}.kind: {reason}"] if reason else []


def _in_the_ladder(problem: str, target_key: str, case: AskedCase) -> str:
    """Return the problem with the key that holds the value, if that is a ladder."""
    where = target_key.rpartition(".")[0]
    for parameter, key in case.ladder.items():
        rest = problem.removeprefix(f"{where}.parameters.{parameter}")
        if rest != problem and rest[0] in ":.[":
            return key + rest
    return problem


def resolve_parameters(kind: str, parameters: Mapping[str, Any], backend: str) -> FaultParameters:
    """Return the parameters with every default of the backend.

    Raises:
        KeyError: unknown kind.
        pydantic.ValidationError: a parameter is unknown or out of its limits.
    """
    return _validated(fault_kind(kind), parameters, backend)


def _target_problems(kind: FaultKind, target: str, roles: Mapping[str, Role], where: str, backend: str) -> list[str]:
    if target not in roles:
        return [f"{where}: unknown service '{target}'; {suggest(target, roles)}"]
    possible = kind.roles_on(backend)
    if roles[target] not in possible:
        fitting = [service for service, role in roles.items() if role in possible]
        allowed = ", ".join(fitting) or "none"
        return [f"{where}: {kind.name} cannot act on '{target}' (role {roles[target]}); allowed: {allowed}"]
    return []


def _validated(kind: FaultKind, parameters: Mapping[str, Any], backend: str) -> FaultParameters:
    return kind.parameters.model_validate({**kind.defaults(backend), **parameters})


def _parameter_problems(kind: FaultKind, parameters: Mapping[str, Any], where: str, backend: str) -> list[str]:
    where = f"{where}.parameters"
    if not kind.parameters.model_fields and parameters:
        unknown = ", ".join(f"'{key}'" for key in parameters)
        return [f"{where}: {kind.name} takes no parameters (got {unknown})"]
    try:
        _validated(kind, parameters, backend)
    except ValidationError as error:
        problems = zip(error.errors(), validation_problems(error, kind.parameters), strict=True)
        return [f"{where}.{problem}" if detail["loc"] else f"{where}: {problem}" for detail, problem in problems]
    return []
