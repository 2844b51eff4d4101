"""``params.yaml`` -> frozen, typed, validated models.

The sections are named after the stages that read them, so that DVC re-runs only what a change touches. Names that a
registry owns (fault kinds, method names) are checked by the stage that owns the registry; the rest is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, create_model, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from tasks.backends import BACKENDS, find
from tasks.errors import ParamsError
from tasks.identity import NO_TELEMETRY
from tasks.injection import ROOT, InjectionSpec
from tasks.live_params import DiagnoseParams, RemediateParams
from tasks.metrics import Profile
from tasks.stack import DnsLabel, StackParams
from tasks.text import suggest
from tasks.traffic import LoadShape, LongPrompts, TraceFile
from tasks.validation import Frozen, Plain, Seconds, validation_problems
from tasks.yaml_core import YamlError, dump, load

DEFAULT_PARAMS_FILE = Path("params.yaml")


def _of_its_backend(value: Any) -> Any:
    """Validate a section ``deploy`` by the model of the backend that it names."""
    if not isinstance(value, dict):
        return value
    if "backend" not in value:
        raise _at_backend("missing", value)
    name = str(value["backend"])
    if problem := BACKENDS.problem(name):
        if name not in BACKENDS:
            problem = f"unknown value '{name}'; {suggest(name, BACKENDS.names())}"
        raise _at_backend(PydanticCustomError("backend", "{problem}", {"problem": problem}), value)
    return find(name).parameters.model_validate(value)


def _at_backend(problem: str | PydanticCustomError, section: dict[str, Any]) -> ValidationError:
    details = InitErrorDetails(type=problem, loc=("backend",), input=section)
    return ValidationError.from_exception_data("deploy", [details])


def _together(problems: Sequence[str], value: Any) -> ValidationError:
    """Return an error with a line per problem; each names its key."""
    return ValidationError.from_exception_data(
        "params",
        [
            InitErrorDetails(type=PydanticCustomError("scenario", "{problem}", {"problem": each}), loc=(), input=value)
            for each in problems
        ],
    )


DeployParams = Annotated[SerializeAsAny[StackParams], BeforeValidator(_of_its_backend)]


class Windows(Frozen):
    """Length of each phase of a case, in seconds. ``warmup_s`` is not recorded."""

    warmup_s: Annotated[float, Field(ge=0, le=86_400)] = 5
    baseline_s: Seconds
    fault_s: Seconds
    recovery_s: Annotated[float, Field(ge=0, le=86_400)]

    @property
    def total_s(self) -> float:
        """Return the length of a case."""
        return self.warmup_s + self.baseline_s + self.fault_s + self.recovery_s


class CampaignParams(Frozen):
    """The parameters that all cases of a campaign share.

    ``cases_per_pod``: of cases that are computed, how many a pod of Airflow makes; None: as many as take two minutes.
    """

    name: DnsLabel
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    repetitions: Annotated[int, Field(ge=1, le=1000), NO_TELEMETRY] = 1
    fault_free_cases: Annotated[int, Field(ge=0, le=1000), NO_TELEMETRY] = 1
    windows: Windows
    cases_per_pod: Annotated[int | None, Field(ge=1, le=10_000), NO_TELEMETRY] = None


class TokenCount(Frozen):
    """Distribution of a token count; ``stdev`` is ignored for ``constant``, and ``uniform`` uses only min and max."""

    distribution: Literal["constant", "normal", "lognormal", "uniform"] = "constant"
    mean: Annotated[float, Field(gt=0, le=1_000_000)] = 16
    stdev: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    min: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    max: Annotated[int, Field(ge=1, le=1_000_000)] = 4096

    @model_validator(mode="after")
    def _ordered(self) -> TokenCount:
        if not self.min <= self.max:
            raise ValueError(f"min ({self.min}) must not exceed max ({self.max})")
        if self.distribution != "uniform" and not self.min <= self.mean <= self.max:
            raise ValueError(f"mean ({self.mean:g}) must lie between min ({self.min}) and max ({self.max})")
        return self


class LoadParams(Frozen):
    """Open-loop load: requests leave on schedule whether or not earlier ones returned.

    ``ignore_eos``: ask for exactly the wanted number of output tokens, an extension of vLLM; False leaves it out.
    ``trace`` (with ``arrival: trace``): played at the speed at which its mean rate is ``rate``, its token counts
    clipped to ``min`` … ``max`` of ``prompt_tokens`` and ``output_tokens``.
    """

    arrival: Literal["poisson", "constant", "trace"]
    rate: Annotated[float, Field(gt=0, le=10_000)]
    endpoint: Literal["chat", "completions"] = "chat"
    prompt_tokens: TokenCount = TokenCount(distribution="normal", mean=24, stdev=8, min=4, max=128)
    output_tokens: TokenCount = TokenCount(mean=16, max=128)
    request_timeout_s: Seconds = 20
    max_send_lag_ms: Annotated[float, Field(gt=0), NO_TELEMETRY] = 100
    ignore_eos: bool = True
    shapes: Annotated[tuple[LoadShape, ...], Field(max_length=32)] = ()
    long_prompts: LongPrompts | None = None
    trace: TraceFile | None = None

    @property
    def summary(self) -> str:
        """The rate and what happens to the load, for people."""
        parts = (self.trace, *self.shapes, self.long_prompts)
        return "; ".join([f"{self.rate:g} requests/s", *(str(part) for part in parts if part is not None)])

    @model_validator(mode="after")
    def _trace_is_played(self) -> LoadParams:
        if self.arrival == "trace" and self.trace is None:
            raise ValueError("trace: missing; arrival: trace needs it")
        if self.arrival != "trace" and self.trace is not None:
            raise ValueError(f"trace: is played with arrival: trace only (got {self.arrival})")
        return self

    @model_validator(mode="after")
    def _one_ramp_at_a_time(self) -> LoadParams:
        ramps = sorted(
            (shape.start_s, shape.end_s, number) for number, shape in enumerate(self.shapes) if shape.kind == "ramp"
        )
        for (_, end, one), (start, _, other) in pairwise(ramps):
            if start < end:
                raise ValueError(f"shapes[{max(one, other)}]: overlaps shapes[{min(one, other)}]; two ramps must not")
        return self


class _OnEachTarget(Frozen):
    """One case per target and step of the ladder, each with this injection alone.

    ``ladder``: parameter -> its value at each step; a second parameter changes in step with the first.
    """

    kind: str
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    parameters: dict[str, Plain] = Field(default={})
    ladder: dict[str, Annotated[tuple[Plain, ...], Field(min_length=1)]] = Field(default={})

    @model_validator(mode="after")
    def _ladder_is_even(self) -> _OnEachTarget:
        if twice := sorted(self.ladder.keys() & self.parameters.keys()):
            raise ValueError(f"ladder: {', '.join(twice)} must not be in parameters as well")
        if len({len(values) for values in self.ladder.values()}) > 1:
            raise ValueError("ladder: the lists must be equally long: step k takes value k of each")
        return self

    @property
    def steps(self) -> int:
        return max((len(values) for values in self.ladder.values()), default=1)

    def at_step(self, target: str, step: int) -> InjectionSpec:
        """Return the injection on ``target`` with the values of a step of the ladder."""
        values = {name: values[step] for name, values in self.ladder.items()}
        return InjectionSpec(kind=self.kind, target=target, parameters={**self.parameters, **values})


class _Together(Frozen):
    """Several injections in one case: concurrent or, with offsets, cascading failures."""

    injections: Annotated[tuple[InjectionSpec, ...], Field(min_length=2)]


class Scenario(Frozen):
    """A case with a load and injections of its own, recorded ``repetitions`` times.

    ``load``: what differs from the section ``load``; mappings are merged, all else is replaced. ``injections``: any
    number, of any role; without a root the case is a negative: nothing is the cause of anything.
    """

    name: DnsLabel
    repetitions: Annotated[int, Field(ge=1, le=1000)] = 1
    load: dict[str, Plain] = Field(default={})
    injections: tuple[InjectionSpec, ...] = ()


@dataclass(frozen=True)
class AskedCase:
    """A case as ``inject`` asks for it.

    ``injections``: by the key of ``params.yaml`` that names the target. ``ladder``: parameter -> the key of its value.
    """

    injections: Mapping[str, InjectionSpec]
    repetitions: int
    scenario: Scenario | None = None
    ladder: Mapping[str, str] = field(default_factory=dict)


class InjectParams(Frozen):
    faults: tuple[_OnEachTarget, ...]
    concurrent: tuple[_Together, ...] = ()
    scenarios: tuple[Scenario, ...] = ()

    def cases(self, repetitions: int = 1) -> list[AskedCase]:
        """Return each case that is asked for; ``repetitions``: of those that are no scenario."""
        alone = [
            AskedCase(
                {f"inject.faults[{f}].targets[{t}]": each.at_step(name, step)},
                repetitions,
                ladder={parameter: f"inject.faults[{f}].ladder.{parameter}[{step}]" for parameter in each.ladder},
            )
            for f, each in enumerate(self.faults)
            for t, name in enumerate(each.targets)
            for step in range(each.steps)
        ]
        together = [
            AskedCase(_by_target(f"inject.concurrent[{c}]", each.injections), repetitions)
            for c, each in enumerate(self.concurrent)
        ]
        played = [
            AskedCase(_by_target(f"inject.scenarios[{s}]", each.injections), each.repetitions, each)
            for s, each in enumerate(self.scenarios)
        ]
        return alone + together + played


def _by_target(where: str, injections: Sequence[InjectionSpec]) -> dict[str, InjectionSpec]:
    return {f"{where}.injections[{i}].target": spec for i, spec in enumerate(injections)}


class ExportParams(Frozen):
    """The sampling of telemetry into a case. ``mask``: patterns (RE2) of what log lines must not show."""

    step_s: Annotated[float, Field(ge=0.5, le=300)] = 1
    rate_window_s: Annotated[float, Field(ge=1, le=3600)] = 5
    mask: Annotated[tuple[str, ...], Field(max_length=64)] = ()


class ScoreParams(Frozen):
    """The methods, the telemetry that they see, and the scoring.

    ``inject_time_error_s``: so much later (earlier if negative) than it was is the inject time that methods are told.
    """

    methods: Annotated[tuple[str, ...], Field(min_length=1)]
    method_parameters: dict[str, dict[str, Plain]] = Field(default={})
    profile: Profile
    inject_time: Literal["known", "detected"] = "known"
    inject_time_error_s: Annotated[float, Field(ge=-600, le=600)] = 0
    baseline_s: Seconds | None = None
    fault_s: Seconds | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    timeout_s: Seconds = 120
    memory_mb: Annotated[int, Field(ge=256, le=1_048_576)] = 4096
    bootstrap_samples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    include_ineffective: bool = False


class ReportParams(Frozen):
    title: str = "RCArena campaign"


class GateParams(Frozen):
    """The limits beyond which `rcarena compare --gate` calls a change a regression.

    ``score_margin``: fall of Avg@5; ``latency_margin``: rise, as a share; ``failure_margin``: rise of the share of
    failed requests; ``methods``: only these (default: all).
    """

    score_margin: Annotated[float, Field(ge=0, le=1)] = 0.1
    latency_margin: Annotated[float, Field(ge=0, le=100)] = 0.2
    failure_margin: Annotated[float, Field(ge=0, le=1)] = 0.05
    methods: tuple[str, ...] = ()


class Params(Frozen):
    """All parameters of a campaign."""

    campaign: CampaignParams
    deploy: DeployParams
    load: LoadParams
    inject: InjectParams
    export: ExportParams
    score: ScoreParams
    report: ReportParams
    gate: GateParams = GateParams()
    diagnose: DiagnoseParams = DiagnoseParams()
    remediate: RemediateParams = RemediateParams()

    @model_validator(mode="after")
    def _gated_methods_are_scored(self) -> Params:
        for method in self.gate.methods:
            if method not in self.score.methods:
                raise ValueError(f"gate.methods: '{method}' is not one of score.methods")
        return self

    @model_validator(mode="after")
    def _only_computed_cases_share_a_pod(self) -> Params:
        size = self.campaign.cases_per_pod
        if size not in (None, 1) and not find(self.deploy.backend).makes_cases():
            raise ValueError(
                f"campaign.cases_per_pod: must be 1 with the backend {self.deploy.backend}, where a case takes several "
                f"pods (got {size})"
            )
        return self

    @model_validator(mode="after")
    def _actions_have_a_patient(self) -> Params:
        if self.remediate.enabled and not find(self.deploy.backend).admits():
            able = [name for name, each in BACKENDS.all().items() if each.admits()]
            raise ValueError(
                f"remediate.enabled: needs the backend {' or '.join(able)}; {self.deploy.backend} cannot run the "
                "experiment with actions"
            )
        return self

    @model_validator(mode="after")
    def _rates_have_samples(self) -> Params:
        window, slowest = self.export.rate_window_s, self.deploy.slowest_scrape_s
        if window < 2 * slowest:
            raise ValueError(
                f"export.rate_window_s: must be at least {2 * slowest:g}, twice the slowest scrape (got {window:g})"
            )
        if self.campaign.windows.warmup_s < window:
            raise ValueError(
                f"campaign.windows.warmup_s: must be at least export.rate_window_s ({window:g}), or the first rates "
                f"reach back to a time without load (got {self.campaign.windows.warmup_s:g})"
            )
        return self

    @model_validator(mode="after")
    def _scenarios_have_names_and_a_load(self) -> Params:
        names: set[str] = set()
        problems = []
        for number, scenario in enumerate(self.inject.scenarios):
            where = f"inject.scenarios[{number}]"
            if scenario.name in names:
                problems.append(f"{where}.name: another scenario has it (got '{scenario.name}')")
            names.add(scenario.name)
            try:
                self.load_of(scenario)
            except ValidationError as error:
                problems += [f"{where}.load.{problem}" for problem in validation_problems(error, LoadParams)]
        if problems:
            raise _together(problems, self)
        return self

    def load_of(self, scenario: Scenario | None) -> LoadParams:
        """Return the load of a case: the section ``load`` with what the scenario changes."""
        if scenario is None or not scenario.load:
            return self.load
        return LoadParams.model_validate(overridden(self.load.model_dump(mode="json"), scenario.load))

    @model_validator(mode="after")
    def _a_victim_has_a_root(self) -> Params:
        for case in self.inject.cases():
            roots = [spec for spec in case.injections.values() if spec.role == ROOT]
            for key, spec in case.injections.items():
                if spec.role != "victim":
                    continue
                where = key.rpartition(".")[0]
                if not any(root.offset_s < spec.offset_s for root in roots):
                    raise ValueError(
                        f"{where}.role: a victim needs a root of the same case that begins earlier; "
                        "give one of them another offset_s"
                    )
                if spec.target in {root.target for root in roots}:
                    raise ValueError(f"{key}: a victim must not be the target of a root (got '{spec.target}')")
        return self

    @model_validator(mode="after")
    def _offsets_fit(self) -> Params:
        window = self.campaign.windows.fault_s
        for case in self.inject.cases():
            for key, spec in case.injections.items():
                if spec.offset_s >= window or spec.offset_s + (spec.duration_s or 0) > window:
                    raise ValueError(
                        f"{key.rpartition('.')[0]}: offset_s + duration_s must end within "
                        f"campaign.windows.fault_s ({window:g} s)"
                    )
        return self

    def dump(self) -> str:
        """Return the resolved parameters as YAML, every default spelled out."""
        return dump(self.model_dump(mode="json"))


def load_params(path: Path) -> Params:
    """Read and validate ``path``.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds an unknown, missing or wrong value. Every problem found
            is listed, each with its key and what is allowed.
    """
    return validated(read_document(path), str(path))


def read_document(path: Path) -> dict[str, Any]:
    """Read the parameters, or a part of them, from ``path`` without checking them.

    Raises:
        ParamsError: it is missing, not YAML, or no mapping.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ParamsError([f"{path}: cannot be read: {error.strerror}"]) from error
    return read_text(content, str(path))


def read_text(text: str | bytes, source: str) -> dict[str, Any]:
    """Read parameters from ``text`` like ``read_document`` from a file; ``source`` names it in problems."""
    try:
        document = load(text)
    except YamlError as error:
        raise ParamsError([f"{source}: not valid YAML: {error}"]) from error
    if not isinstance(document, dict):
        raise ParamsError([f"{source}: must be a mapping with the sections {', '.join(Params.model_fields)}"])
    return document


def overridden(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``: mappings are merged key by key, all else is replaced; neither is changed.

    A section that names another ``backend`` replaces the base's as a whole: its keys are others.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        merge = isinstance(old, dict) and isinstance(value, dict) and not _other_backend(old, value)
        merged[key] = overridden(dict(old or {}), value) if merge else value
    return merged


def _other_backend(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return "backend" in new and new["backend"] != old.get("backend")


def validated(document: dict[str, Any], source: str) -> Params:
    """Return the checked parameters. Raises ParamsError with every problem, each naming its key in ``source``."""
    try:
        return Params.model_validate(document)
    except ValidationError as error:
        problems = validation_problems(error, _model_of(document))
        raise ParamsError(f"{source}: {problem}" for problem in problems) from error


def _model_of(document: dict[str, Any]) -> type[Params]:
    """``Params`` with the fields of the backend that ``document`` names, to explain problems by."""
    section = document.get("deploy")
    name = str(section.get("backend")) if isinstance(section, dict) else ""
    if BACKENDS.problem(name):
        return Params
    return create_model("Params", __base__=Params, deploy=(find(name).parameters, ...))
