"""The case contract: write, validate, read.

A case is a directory. ``case.json`` holds what was done, five Parquet files hold what was seen, ``manifest.json`` holds
size, rows and sha256 of each and is written last: a directory without a manifest is unfinished and is redone. Times are
UTC; every duration is in seconds unless its name says otherwise. NaN means "no sample".
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, Field, ValidationError, field_validator, model_validator

from tasks.errors import RCArenaError
from tasks.injection import ROOT, GroupLabels, Injection, InjectionRole, Interval, group_labels
from tasks.stack import Role
from tasks.system.durable import publish_directory
from tasks.validation import Record, validation_problems

RECORD_FILE = "case.json"
MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1
"""The version of ``case.json``. It stays when signals, columns and fields are added: a reader leaves out what it does
not know, and what an older version did not write is missing or null."""

TIMESTAMP = pa.timestamp("ns", tz="UTC")
_NAME = pa.dictionary(pa.int32(), pa.string())

METRICS = pa.schema(
    [
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("service", _NAME, nullable=False),
        pa.field("metric", _NAME, nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("unit", _NAME),
        pa.field("source", _NAME),
    ]
)
REQUESTS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("trace_id", pa.string()),
        pa.field("scheduled", TIMESTAMP, nullable=False),
        pa.field("sent", TIMESTAMP),
        pa.field("first_token", TIMESTAMP),
        pa.field("last_token", TIMESTAMP),
        pa.field("tokens_in", pa.int32()),
        pa.field("tokens_out", pa.int32()),
        pa.field("status", pa.int32()),
        pa.field("error", pa.string()),
    ]
)
LOGS = pa.schema(
    [
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("service", _NAME, nullable=False),
        pa.field("level", _NAME),
        pa.field("message", pa.string(), nullable=False),
        pa.field("template_id", pa.string()),
    ]
)
SPANS = pa.schema(
    [
        pa.field("trace_id", pa.string(), nullable=False),
        pa.field("span_id", pa.string(), nullable=False),
        pa.field("parent_span_id", pa.string()),
        pa.field("service", _NAME, nullable=False),
        pa.field("operation", _NAME, nullable=False),
        pa.field("start", TIMESTAMP, nullable=False),
        pa.field("duration", pa.float64(), nullable=False),
        pa.field("status_code", pa.int32()),
        pa.field("attributes", pa.string()),
    ]
)
TOPOLOGY = pa.schema(
    [
        pa.field("relation", _NAME, nullable=False),
        pa.field("source", _NAME, nullable=False),
        pa.field("target", _NAME, nullable=False),
    ]
)
"""``relation`` is ``CALLS`` (caller service -> callee service) or ``RUNS_ON`` (service -> node)."""
CALLS = "calls"
RUNS_ON = "runs_on"

NOT_DECLARED = "not declared"
MANY_ROWS = 500_000

SignalName = Literal["metrics", "requests", "logs", "spans", "topology"]
SIGNALS: dict[SignalName, pa.Schema] = {
    "metrics": METRICS,
    "requests": REQUESTS,
    "logs": LOGS,
    "spans": SPANS,
    "topology": TOPOLOGY,
}


class CaseError(RCArenaError):
    """A case directory that does not keep the contract. ``problems`` holds one line per problem."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.path = path
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{path.name}: {problem}" for problem in problems))


class Phase(Interval):
    name: Literal["baseline", "fault", "recovery"]


class Limits(Record):
    """The resources that a service may use, in cores, bytes, tokens and sequences; None: not limited, or not known."""

    cpu_cores: float | None = None
    memory_bytes: float | None = None
    kv_cache_bytes: float | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None


class Service(Record):
    """``devices``: the accelerators that it runs on (UUIDs)."""

    name: str
    role: Role
    node: str | None = None
    address: str | None = None
    limits: Limits = Limits()
    devices: tuple[str, ...] = ()


class Stack(Record):
    """The stack under test. Data sets of other people may not know the model or the engine.

    ``index``: which of the campaign's stacks; None: there was one. ``simulated``: it was computed, nothing ran.
    """

    backend: str
    index: int | None = None
    simulated: bool = False
    model: str | None = None
    engine: str | None = None
    parallelism: dict[str, int] = Field(default={})
    versions: dict[str, str] = Field(default={})
    services: tuple[Service, ...] = Field(min_length=1)

    @property
    def nearest_users(self) -> str:
        """The service whose latency users see: the gateway, else what stands nearest to them."""
        order = ("gateway", "head", "service", "replica")
        return min(self.services, key=lambda service: order.index(service.role)).name


class LoadRecord(Record):
    """The load as asked for and as it left: a generator that fell behind says so in ``verdict``.

    ``oddities``: what was wrong with answers of the run (warm-up included) that were read all the same, kind ->
    number of answers.
    """

    parameters: dict[str, Any] = Field(default={})
    requests: int = 0
    failed: int = 0
    oddities: dict[str, int] = Field(default={})
    send_lag_p50_ms: float | None = None
    send_lag_p99_ms: float | None = None
    verdict: Literal["on-schedule", "fell-behind", "unknown"] = "unknown"

    @property
    def changes(self) -> tuple[str, ...]:
        """What changed the load within the case, by name of its parameter."""
        return tuple(name for name in ("shapes", "long_prompts") if self.parameters.get(name))


NO_ROW = "no row in the window"
NO_REQUEST = "no request sent"


class Completeness(Record):
    status: Literal["complete", "partial", "missing"]
    reason: str = ""

    @property
    def recorded(self) -> bool:
        """False if nobody looked, or could look. A signal that was looked at may still have nothing to show."""
        return self.status != "missing" or self.reason in (NO_ROW, NO_REQUEST)


class Sampling(Record):
    """The sampling of metrics: a row every ``step_s``, rates over ``rate_window_s``; None: not known."""

    step_s: float | None = None
    rate_window_s: float | None = None


class Label(Record):
    """The statement of a person on what an incident was. ``roots``: empty if it had none; ``note``: in their words.
    ``change``: when it had been found to begin, before anybody gave another time; None: not known."""

    labelled: AwareDatetime
    roots: tuple[Injection, ...] = ()
    note: str = ""
    change: AwareDatetime | None = None


CaseKind = Literal["experiment", "incident"]


class CaseRecord(Record):
    """``case.json``. ``front_end`` is the service whose latency users see (the SLI).

    ``kind``: an incident happened by itself, and its truth is not known until a person labels it. ``labels``: what
    people said of it, the last one counts; its roots are then the ``injections``.

    ``scenario`` is the name of the entry of ``inject.scenarios`` that asked for the case. ``parameters`` are those that
    shaped the case, by section, every default spelled out (empty: not known). A signal that is not declared is missing.
    """

    schema_version: Literal[1] = 1
    case_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    kind: CaseKind = "experiment"
    campaign: str
    stack: Stack
    front_end: str
    load: LoadRecord = LoadRecord()
    phases: tuple[Phase, ...] = Field(min_length=1)
    injections: tuple[Injection, ...] = ()
    labels: tuple[Label, ...] = ()
    scenario: str | None = None
    completeness: dict[SignalName, Completeness]
    sampling: Sampling = Sampling()
    versions: dict[str, str] = Field(default={})
    seed: int = 0
    parameters: dict[str, Any] = Field(default={})

    @field_validator("schema_version", mode="before")
    @classmethod
    def _not_of_the_future(cls, version: Any) -> Any:
        if type(version) is int and version > SCHEMA_VERSION:
            raise ValueError(f"a newer version of rcarena wrote this case; this one reads up to {SCHEMA_VERSION}")
        return version

    @field_validator("completeness", mode="before")
    @classmethod
    def _of_known_signals(cls, declared: Any) -> Any:
        if not isinstance(declared, Mapping):
            return declared
        undeclared = {signal: Completeness(status="missing", reason=NOT_DECLARED) for signal in SIGNALS}
        return undeclared | {signal: each for signal, each in declared.items() if signal in SIGNALS}

    @model_validator(mode="after")
    def _consistent(self) -> CaseRecord:
        names = self.service_names
        if len(set(names)) != len(names):
            raise ValueError("stack.services: a service is named twice")
        if self.front_end not in names:
            raise ValueError(f"front_end: '{self.front_end}' is not one of stack.services")
        for i, injection in enumerate(self.injections):
            if injection.target not in names:
                raise ValueError(f"injections[{i}].target: '{injection.target}' is not one of stack.services")
        return self

    @property
    def service_names(self) -> tuple[str, ...]:
        return tuple(service.name for service in self.stack.services)

    @property
    def roots(self) -> tuple[Injection, ...]:
        """The injections that are root causes, effective or not. A case without any is a negative."""
        return tuple(injection for injection in self.injections if injection.role == ROOT)

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets of all roots, each once."""
        return tuple(dict.fromkeys(injection.target for injection in self.roots))

    @property
    def undisturbed(self) -> bool:
        """True if nothing was done to the stack and its load: such a case shows how the stack is by itself."""
        return not self.injections and self.scenario is None and self.kind == "experiment"

    @property
    def has_truth(self) -> bool:
        """False for an incident that nobody has labelled: it cannot be scored."""
        return self.kind == "experiment" or bool(self.labels)

    def phase(self, name: str) -> Phase | None:
        return next((phase for phase in self.phases if phase.name == name), None)

    def counted(self, *, include_ineffective: bool = False) -> tuple[Injection, ...]:
        """Return the roots that count, in the order of the record: the effective ones, or all if asked for
        (``score.include_ineffective``). Truth, inject time and labels of a case come from them."""
        return tuple(i for i in self.roots if include_ineffective or i.counts)

    def victims(self) -> tuple[Injection, ...]:
        """Return the effective victims in the order of their begin."""
        return self._effective("victim")

    def disturbances(self) -> tuple[Injection, ...]:
        """Return the effective disturbances in the order of their begin."""
        return self._effective("disturbance")

    def _effective(self, role: InjectionRole) -> tuple[Injection, ...]:
        found = [i for i in self.injections if i.role == role and i.counts]
        return tuple(sorted(found, key=lambda injection: injection.begin))

    def injection_time_of(self, counted: Sequence[Injection]) -> datetime:
        """Return when the first root that counts began; if none counts, the first root.

        In a case without a root it is the start of the fault phase, so that methods see such a case like any other.
        """
        starts = [injection.begin for injection in counted or self.roots]
        return min(starts, default=(self.phase("fault") or self.phases[-1]).start)

    def labels_of(self, counted: Sequence[Injection]) -> GroupLabels:
        """Return the labels of the case by the roots that count; if none counts, by all roots."""
        counted = counted or self.roots
        return group_labels(counted, [injection for injection in self.roots if injection not in counted])

    @property
    def injection_time(self) -> datetime:
        """``injection_time_of`` the effective roots."""
        return self.injection_time_of(self.counted())

    @property
    def fault_label(self) -> str:
        """The fault of ``labels_of`` the effective roots."""
        return self.labels_of(self.counted()).fault


@dataclass(frozen=True)
class Case:
    """A finished case on disk. Tables are read on first use."""

    path: Path
    record: CaseRecord

    def table(self, signal: SignalName) -> pd.DataFrame:
        """Read the signal with the columns of its schema; empty if it was declared missing."""
        file = self.path / f"{signal}.parquet"
        if not file.exists():
            return SIGNALS[signal].empty_table().to_pandas()
        schema = SIGNALS[signal]
        with pq.ParquetFile(file) as opened:
            return as_signal(signal, _read(opened, schema)).to_pandas()

    @cached_property
    def metrics(self) -> pd.DataFrame:
        return self.table("metrics")

    @cached_property
    def requests(self) -> pd.DataFrame:
        return self.table("requests")

    @cached_property
    def logs(self) -> pd.DataFrame:
        return self.table("logs")

    @cached_property
    def spans(self) -> pd.DataFrame:
        return self.table("spans")

    @cached_property
    def topology(self) -> pd.DataFrame:
        return self.table("topology")


class CaseWriter:
    """Builds a case beside its final place and moves it there whole.

    The manifest is written last, everything is synced, then one rename publishes the case: a reader sees no case or a
    whole one, whenever the writer is killed.
    """

    def __init__(self, cases_dir: Path, case_id: str) -> None:
        self.final = cases_dir / case_id
        self.staging = cases_dir / f".{case_id}.partial"

    def __enter__(self) -> CaseWriter:
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)
        return self

    def __exit__(self, *exc_info: object) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)

    def path(self, signal: SignalName) -> Path:
        """Return where a streaming writer puts the Parquet file of ``signal`` (schema: ``SIGNALS[signal]``)."""
        return self.staging / f"{signal}.parquet"

    def write(self, signal: SignalName, table: pd.DataFrame | pa.Table) -> None:
        """Write a whole signal. Columns beyond the schema are an error; missing nullable columns become null."""
        pq.write_table(as_signal(signal, table), self.path(signal), compression="zstd")

    def finish(self, record: CaseRecord) -> Case:
        """Write ``case.json`` and the manifest, check the case and publish it.

        Raises:
            CaseError: the case does not keep the contract; nothing is published.
        """
        (self.staging / RECORD_FILE).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        files = sorted(file for file in self.staging.iterdir() if file.name != MANIFEST_FILE)
        manifest = {"schema_version": record.schema_version, "files": {file.name: _file_entry(file) for file in files}}
        (self.staging / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        problems = validate_case(self.staging)
        if problems:
            raise CaseError(self.final, problems)
        publish_directory(self.staging, self.final)
        return Case(self.final, record)


def as_signal(signal: SignalName, table: pd.DataFrame | pa.Table) -> pa.Table:
    """``table`` cast to the schema of ``signal``.

    Raises:
        ValueError: a column is not in the schema, or a required one is missing.
    """
    schema = SIGNALS[signal]
    arrow = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
    unknown = set(arrow.column_names) - set(schema.names)
    if unknown:
        raise ValueError(f"{signal}: unknown columns {sorted(unknown)}; allowed: {', '.join(schema.names)}")
    columns = []
    for field in schema:
        if field.name in arrow.column_names:
            columns.append(_cast(arrow.column(field.name), field))
        elif field.nullable:
            columns.append(pa.nulls(arrow.num_rows, field.type))
        else:
            raise ValueError(f"{signal}: column '{field.name}' is missing")
    return pa.Table.from_arrays(columns, schema=schema)


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if pa.types.is_dictionary(field.type):
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return column.cast(pa.string()).dictionary_encode().cast(field.type)
    column = column.cast(field.type)
    if pa.types.is_floating(field.type) and not field.nullable:
        return column.fill_null(float("nan"))  # pandas NaN arrives as null; storage keeps NaN
    return column


def is_finished(path: Path) -> bool:
    """True when ``path`` holds a published case (it has a manifest). Use ``validate_case`` to check the content."""
    return (path / MANIFEST_FILE).is_file()


def read_case(path: Path) -> Case:
    """Read ``case.json`` of a finished case.

    Raises:
        CaseError: unfinished, unreadable or not this schema version.
    """
    if not is_finished(path):
        raise CaseError(path, [f"no {MANIFEST_FILE}: the case is unfinished"])
    try:
        text = (path / RECORD_FILE).read_text(encoding="utf-8")
        return Case(path, CaseRecord.model_validate_json(text))
    except OSError as error:
        raise CaseError(path, [f"{RECORD_FILE}: {error.strerror}"]) from error
    except ValidationError as error:
        raise CaseError(path, [f"{RECORD_FILE}: {p}" for p in validation_problems(error, CaseRecord)]) from error


def finished_cases(cases_dir: Path) -> list[Path]:
    """Return the directories of the finished cases below ``cases_dir``, ordered by name; hidden ones are being made."""
    if not cases_dir.is_dir():
        return []
    return [path for path in sorted(cases_dir.iterdir()) if not path.name.startswith(".") and is_finished(path)]


def read_cases(cases_dir: Path) -> list[Case]:
    """Read every finished case below ``cases_dir``, ordered by case id."""
    return [read_case(path) for path in finished_cases(cases_dir)]


def mixed(cases: Iterable[Case]) -> str:
    """Return a line that says so when some of ``cases`` are simulated and others recorded; else nothing."""
    simulated = Counter(case.record.stack.simulated for case in cases)
    if len(simulated) < 2:
        return ""
    return f"{simulated[True]} cases are simulated and {simulated[False]} recorded: they cannot be in one table"


def validate_case(path: Path) -> list[str]:
    """List every way in which the directory breaks the contract, one line each; empty when it keeps it."""
    try:
        case = read_case(path)
        manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
        entries = dict(manifest["files"])
    except CaseError as error:
        return list(error.problems)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{MANIFEST_FILE}: cannot be read: {error}"]
    problems = [f"{name}: listed in {MANIFEST_FILE} but missing" for name in entries if not (path / name).is_file()]
    present = {file.name for file in path.iterdir()} - {MANIFEST_FILE}
    problems += [f"{name}: not listed in {MANIFEST_FILE}" for name in sorted(present - set(entries))]
    for name in sorted(present & set(entries)):
        if not _fits(entries[name], _file_entry(path / name)):
            problems.append(f"{name}: differs from {MANIFEST_FILE} (size, rows or sha256)")
    for signal, schema in SIGNALS.items():
        problems += _signal_problems(case, signal, schema)
    return problems


def _signal_problems(case: Case, signal: str, schema: pa.Schema) -> list[str]:
    file = case.path / f"{signal}.parquet"
    declared = case.record.completeness[signal]  # type: ignore[index]  # SIGNALS has the names
    if not file.exists():
        what = f"{signal}: declared {declared.status} but {file.name} does not exist"
        return [] if declared.status == "missing" else [what]
    try:
        with pq.ParquetFile(file) as opened:
            if problems := _column_problems(file.name, opened.schema_arrow, schema):
                return problems
            table = _read(opened, schema)
    except (OSError, pa.ArrowException) as error:
        return [f"{file.name}: not readable as Parquet: {error}"]
    problems = [
        f"{file.name}: column '{field.name}' has nulls"
        for field in schema
        if not field.nullable and table.column(field.name).null_count
    ]
    if declared.status == "missing" and table.num_rows:
        what = NOT_DECLARED if declared.reason == NOT_DECLARED else "declared missing"
        problems.append(f"{signal}: {what} but {file.name} has rows")
    if signal != "topology" and "service" in schema.names:
        known = set(case.record.service_names)
        found_services = set(table.column("service").cast(pa.string()).unique().to_pylist())
        strangers = sorted(str(name) for name in found_services - known)
        problems += [f"{file.name}: service '{name}' is not one of stack.services" for name in strangers]
    return problems


def _read(opened: pq.ParquetFile, schema: pa.Schema) -> pa.Table:
    """Read the columns of ``schema`` that are there. Threads cost a small file more than they save."""
    there = [name for name in opened.schema_arrow.names if name in schema.names]
    return opened.read(there, use_threads=opened.metadata.num_rows > MANY_ROWS)


def _column_problems(file: str, found: pa.Schema, schema: pa.Schema) -> list[str]:
    """Columns beyond those of the contract are left out by readers, missing ones read as null where null is allowed."""
    twice = {name for name in found.names if found.names.count(name) > 1}
    problems = [f"{file}: column '{name}' is there twice" for name in sorted(twice)]
    for field in schema:
        if field.name in twice:
            continue
        if field.name not in found.names:
            problems += [] if field.nullable else [f"{file}: column '{field.name}' is missing"]
        elif _of_values(found.field(field.name).type) != _of_values(field.type):
            problems.append(f"{file}: column '{field.name}' is {found.field(field.name).type}, not {field.type}")
    return problems


def _of_values(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a dictionary-encoded column: the writer may choose that encoding."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _fits(listed: Any, found: Mapping[str, Any]) -> bool:
    """Compare the facts about a file that this version knows; a manifest may have more."""
    return isinstance(listed, Mapping) and all(listed.get(key) == value for key, value in found.items())


def _file_entry(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    entry: dict[str, Any] = {"size": file.stat().st_size, "sha256": digest}
    if file.suffix == ".parquet":
        try:
            entry["rows"] = pq.read_metadata(file).num_rows
        except (OSError, pa.ArrowException):
            entry["rows"] = None
    return entry
