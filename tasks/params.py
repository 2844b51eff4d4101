"""``params.yaml`` -> frozen, typed, validated models.

The sections are named after the stages that read them, so that DVC re-runs only what a change touches. Names that a
registry owns (fault kinds, method names) are checked by the stage that owns the registry; the rest is checked here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DEFAULT_PARAMS_FILE = Path("params.yaml")

GATEWAY = "nginx-proxy"
HEAD = "ray-head"
REPLICA_PREFIX = "ray-replicas-"

Role = Literal["gateway", "head", "replica", "service"]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class ParamsError(ValueError):
    """Parameters that cannot be used. ``problems`` holds one line per problem, each naming the key."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Frozen(BaseModel):
    """Base of every parameter model: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Windows(Frozen):
    """Length of each phase of a case, in seconds. ``warmup_s`` is not recorded."""

    warmup_s: Annotated[float, Field(ge=0, le=86_400)] = 5
    baseline_s: Seconds
    fault_s: Seconds
    recovery_s: Annotated[float, Field(ge=0, le=86_400)]


class CampaignParams(Frozen):
    """What the set of cases has in common."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    repetitions: Annotated[int, Field(ge=1, le=1000)] = 1
    fault_free_cases: Annotated[int, Field(ge=0, le=1000)] = 1
    windows: Windows


class ModelParams(Frozen):
    """The toy model that each local replica serves (random weights, locally built tokenizer)."""

    architecture: Literal["falcon-h1", "llama", "qwen2"] = "falcon-h1"
    layers: Annotated[int, Field(ge=1, le=32)] = 2
    hidden_size: Annotated[int, Field(ge=64, le=4096, multiple_of=64)] = 128
    vocabulary: Annotated[int, Field(ge=512, le=65_536)] = 2048
    max_model_len: Annotated[int, Field(ge=64, le=8192)] = 512
    max_num_seqs: Annotated[int, Field(ge=1, le=256)] = 16
    kv_cache_mb: Annotated[int, Field(ge=16, le=65_536)] = 64


class CpuCores(Frozen):
    """CPU quota of each service's cgroup, in cores, once the stack is healthy."""

    gateway: Annotated[float, Field(gt=0, le=256)] = 0.5
    head: Annotated[float, Field(gt=0, le=256)] = 1.0
    replica: Annotated[float, Field(gt=0, le=256)] = 0.6


class DeployParams(Frozen):
    """The stack under test."""

    backend: Literal["local"]
    replicas: Annotated[int, Field(ge=1, le=32)]
    model: ModelParams = ModelParams()
    cpu_cores: CpuCores = CpuCores()
    scrape_interval_s: Annotated[float, Field(ge=0.5, le=60)] = 1
    start_timeout_s: Seconds = 420

    @property
    def slowest_scrape_s(self) -> float:
        """Ray's agents need 0.1 s of CPU for a scrape: they are asked every 2 s at most."""
        return max(2.0, self.scrape_interval_s)

    def roles(self) -> dict[str, Role]:
        """Role of each service, in the order gateway, head, replicas."""
        roles: dict[str, Role] = {GATEWAY: "gateway", HEAD: "head"}
        roles.update({f"{REPLICA_PREFIX}{i}": "replica" for i in range(self.replicas)})
        return roles

    def services(self) -> tuple[str, ...]:
        """The RCA candidates."""
        return tuple(self.roles())


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
    """Open-loop load: requests leave on schedule whether or not earlier ones returned."""

    arrival: Literal["poisson", "constant"]
    rate: Annotated[float, Field(gt=0, le=10_000)]
    endpoint: Literal["chat", "completions"] = "chat"
    prompt_tokens: TokenCount = TokenCount(distribution="normal", mean=24, stdev=8, min=4, max=128)
    output_tokens: TokenCount = TokenCount(mean=16, max=128)
    request_timeout_s: Seconds = 20
    max_send_lag_ms: Annotated[float, Field(gt=0)] = 100


class InjectionSpec(Frozen):
    """One fault on one target inside a case; ``offset_s`` counts from the start of the fault window."""

    kind: str
    target: str
    parameters: dict[str, Any] = {}
    offset_s: Annotated[float, Field(ge=0, le=86_400)] = 0
    duration_s: Seconds | None = None


class FaultSpec(Frozen):
    """A fault kind to inject on each target in turn: one case per target and repetition."""

    kind: str
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    parameters: dict[str, Any] = {}


class ConcurrentFaultSpec(Frozen):
    """Several injections in one case: concurrent or, with offsets, cascading failures."""

    injections: Annotated[tuple[InjectionSpec, ...], Field(min_length=2)]


class InjectParams(Frozen):
    faults: tuple[FaultSpec, ...]
    concurrent: tuple[ConcurrentFaultSpec, ...] = ()


class ExportParams(Frozen):
    """How telemetry is sampled into a case."""

    step_s: Annotated[float, Field(ge=0.5, le=300)] = 1
    rate_window_s: Annotated[float, Field(ge=1, le=3600)] = 5


class ScoreParams(Frozen):
    """Which methods rank, what they may see, and how they are scored."""

    methods: Annotated[tuple[str, ...], Field(min_length=1)]
    method_parameters: dict[str, dict[str, Any]] = {}
    profile: Literal["paper", "llm"]
    inject_time: Literal["known", "detected"] = "known"
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


class Params(Frozen):
    """All parameters of a campaign."""

    campaign: CampaignParams
    deploy: DeployParams
    load: LoadParams
    inject: InjectParams
    export: ExportParams
    score: ScoreParams
    report: ReportParams

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
    def _offsets_fit(self) -> Params:
        window = self.campaign.windows.fault_s
        for c, spec in enumerate(self.inject.concurrent):
            for i, injection in enumerate(spec.injections):
                end = injection.offset_s + (injection.duration_s or 0)
                if injection.offset_s >= window or end > window:
                    raise ValueError(
                        f"inject.concurrent[{c}].injections[{i}]: offset_s + duration_s must end within "
                        f"campaign.windows.fault_s ({window:g} s)"
                    )
        return self

    def dump(self) -> str:
        """The resolved parameters as YAML: every default spelled out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def suggest(word: str, allowed: Iterable[str]) -> str:
    """``allowed: a, b, c`` plus the closest match, for an error message."""
    choices = sorted(allowed)
    close = difflib.get_close_matches(word, choices, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}allowed: {', '.join(choices)}"


def load_params(path: Path) -> Params:
    """Read and validate ``path``.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds an unknown, missing or wrong value. Every problem found
            is listed, each with its key and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from error
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ParamsError([_yaml_problem(path, error)]) from error
    if not isinstance(document, dict):
        raise ParamsError([f"{path}: must be a mapping with the sections {', '.join(Params.model_fields)}"])
    try:
        return Params.model_validate(document)
    except ValidationError as error:
        raise ParamsError(f"{path}: {problem}" for problem in _problems(error, Params)) from error


def validation_problems(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[str]:
    """One line per problem of a pydantic error, each naming the key below ``prefix``."""
    return [f"{prefix}.{problem}" if prefix else problem for problem in _problems(error, model)]


def _problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    return [_problem(dict(detail), model) for detail in error.errors()]


def _problem(detail: dict[str, Any], model: type[BaseModel]) -> str:
    location = detail["loc"]
    key = _dotted(location)
    if detail["type"] == "extra_forbidden":
        allowed = _fields_at(model, location[:-1])
        return f"{key}: unknown key; {suggest(str(location[-1]), allowed)}"
    if detail["type"] == "missing":
        return f"{key}: missing; it must be given"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not key:
        return message
    shown = "" if isinstance(detail["input"], dict | list | BaseModel) else f" (got {detail['input']!r})"
    return f"{key}: {message}{shown}"


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that sits at ``location`` below ``model``."""
    current: type[BaseModel] = model
    for part in location:
        if isinstance(part, int):
            continue
        for candidate in _models_in(current.model_fields[part].annotation):
            current = candidate
            break
    return list(current.model_fields)


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys; a person who wrote a key twice wants to be told."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
            if isinstance(key, str | int | float | bool):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _yaml_problem(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{path}: not valid YAML: {where}{problem}"
