"""The section ``deploy`` of the parameters for a stack that somebody else deployed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tasks.export import trace_servers
from tasks.export.sources.placement import REGEX_MARK
from tasks.identity import NO_TELEMETRY
from tasks.stack import DnsLabel, Role, StackParams
from tasks.text import suggest
from tasks.validation import Frozen, Seconds

if TYPE_CHECKING:  # the DAGs plan without numpy
    from tasks.export.sources.http import HttpAccess, SecretSource
    from tasks.export.sources.labelled import SeriesOwner

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LabelName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")]


def _without_password(url: str) -> str:
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("must not hold a password: use auth.basic, whose password is in a file or in the environment")
    return url


def _regular(value: str) -> str:
    try:
        re.compile(value[1:] if value.startswith(REGEX_MARK) else "")
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if not value:
        raise ValueError("must not be empty")
    return value


Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+"), AfterValidator(_without_password)]
LabelValue = Annotated[str, AfterValidator(_regular)]


class Secret(Frozen):
    """Where a secret is: in a ``file`` or in the variable ``env`` of the environment. It is never a parameter."""

    hides_values: ClassVar[bool] = True

    file: str | None = None
    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("give either file or env")
        return self

    @property
    def source(self) -> SecretSource:
        from tasks.export.sources.http import SecretSource

        return SecretSource(None if self.file is None else Path(self.file).expanduser(), self.env)


class BasicAuth(Frozen):
    user: Annotated[str, Field(pattern=r"^[^:\s]+$")]
    password: Secret


class Tls(Frozen):
    """Files in PEM: ``ca_file`` signed the server's certificate; the others are this client's (mTLS)."""

    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together")
        return self


class Auth(Frozen):
    """Credentials for a telemetry server. ``service_account``: the token of the pod that this process runs in.

    ``tenant``: value of X-Scope-OrgID (Mimir, Loki, Grafana Cloud); ``headers``: further ones, whose values are secret.
    """

    bearer: Secret | None = None
    basic: BasicAuth | None = None
    service_account: bool = False
    tls: Tls = Tls()
    tenant: Annotated[str, Field(pattern=r"^\S+$")] | None = None
    headers: dict[HeaderName, Secret] = Field(default={})

    @model_validator(mode="after")
    def _one_authorization(self) -> Self:
        given = [name for name in ("bearer", "basic", "service_account") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(given)}")
        return self

    @property
    def access(self) -> HttpAccess:
        from tasks.export.sources.http import HttpAccess, SecretSource

        bearer = self.bearer.source if self.bearer else None
        authority = _path(self.tls.ca_file)
        if self.service_account:
            bearer = SecretSource(SERVICE_ACCOUNT / "token")
        return HttpAccess(
            token=bearer,
            ca_file=authority,
            tenant=self.tenant,
            user=self.basic.user if self.basic else None,
            password=self.basic.password.source if self.basic else None,
            certificate_file=_path(self.tls.certificate_file),
            key_file=_path(self.tls.key_file),
            further={name: secret.source for name, secret in self.headers.items()},
        )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


class TelemetryServer(Frozen):
    url: Url
    auth: Auth = Auth()


class LokiServer(TelemetryServer):
    """``selector``: LogQL of the stack's streams; None: those of ``kubernetes.namespace``."""

    selector: Annotated[str, Field(pattern=r"^\{.+\}$")] | None = None


def _trace_server(kind: str) -> str:
    known = trace_servers.names()
    if kind not in known:
        raise ValueError(f"unknown kind '{kind}'; {suggest(kind, known)}")
    return kind


class Traces(Frozen):
    """Where spans are: a server at ``url``, of a ``kind``; or OTLP ``files`` on this machine.

    ``kind``: ``files`` (a web server that lists OTLP files of the collector), ``tempo``, ``jaeger``. ``services``: what
    the server calls those that are asked for; ``names``: what it calls them -> service of the stack, where they differ.
    ``limit``: traces that are read at most.
    """

    kind: Annotated[str, AfterValidator(_trace_server)] = "files"
    url: Url | None = None
    auth: Auth = Auth()
    services: tuple[str, ...] = ()
    names: dict[str, str] = Field(default={})
    limit: Annotated[int, Field(ge=16, le=100_000)] = 2000
    files: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.kind != "files" and self.url is None:
            raise ValueError(f"url: is needed with kind: {self.kind}")
        return self


class AttachedKubernetes(Frozen):
    """Where the stack's pods are. ``context`` None: that of the kubeconfig, or of the pod that this process runs in."""

    namespace: DnsLabel
    context: str | None = None


class AttachedService(Frozen):
    """A service, or ``replicas`` of them, which are called ``<name>-0``, ``-1`` …

    ``labels``: labels of its series, in Prometheus; several mappings are alternatives (the engine's own series by
    ``instance``, its container's by ``name``). A value that begins with ``~`` is a regular expression for all of it.
    ``each``: the label whose values tell the replicas apart, such as ``pod``, ``instance`` or ``ReplicaId``.
    ``selector``, ``container``: label selector and container of its pods, for faults.
    """

    name: DnsLabel
    role: Role
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    labels: Annotated[tuple[dict[LabelName, LabelValue], ...], Field(min_length=1), NO_TELEMETRY]
    each: Annotated[LabelName | None, NO_TELEMETRY] = None
    selector: Annotated[str | None, NO_TELEMETRY] = None
    container: Annotated[str | None, NO_TELEMETRY] = None

    @model_validator(mode="after")
    def _replicas_are_told_apart(self) -> Self:
        if any(not labels for labels in self.labels):
            raise ValueError("labels: a mapping is empty: every series would be its")
        if self.replicas > 1 and self.each is None:
            raise ValueError("each: is needed, with the label that tells the replicas apart, such as pod or instance")
        if self.each is not None and len(self.labels) > 1:
            raise ValueError("labels: with each there can be only one mapping")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.replicas == 1 else tuple(f"{self.name}-{i}" for i in range(self.replicas))

    def owners(self, known: Mapping[str, str]) -> tuple[SeriesOwner, ...]:
        """Return the labels of its series; ``known``: value of ``each`` -> service."""
        from tasks.export.sources.labelled import SeriesOwner

        return tuple(SeriesOwner(self.names, labels, self.each, known) for labels in self.labels)


class FaultLimits(Frozen):
    """What faults may touch: pods of ``services`` only, in a namespace whose owner set the label ``namespace_label``,
    one replica at a time."""

    services: Annotated[tuple[str, ...], Field(min_length=1)]
    namespace_label: Annotated[str, Field(pattern=r"^[^=\s]+=[^=\s]+$")] = "rcarena.io/allow-faults=true"
    max_replicas: Literal[1] = 1


class AttachedDeployParams(StackParams):
    """A stack that somebody else deployed. Nothing of it is changed unless ``allow_faults``, within ``faults``.

    ``gateway_url``: where load is sent; None: no load can be. ``model``: the name that requests carry. ``calls``: who
    calls whom; empty: gateways call heads, or replicas where there is no head, and heads call replicas.
    ``replicas`` follows from ``services``. ``timeout_s``: for an answer of a telemetry server.
    """

    backend: Literal["attached"]
    replicas: Annotated[int, Field(ge=0, le=10_000), NO_TELEMETRY] = 0
    services: Annotated[tuple[AttachedService, ...], Field(min_length=1)]
    model: str | None = None
    engine: str | None = None
    gateway_url: Annotated[Url | None, NO_TELEMETRY] = None
    kubernetes: Annotated[AttachedKubernetes | None, NO_TELEMETRY] = None
    prometheus: Annotated[TelemetryServer, NO_TELEMETRY]
    loki: Annotated[LokiServer | None, NO_TELEMETRY] = None
    traces: Annotated[Traces | None, NO_TELEMETRY] = None
    calls: Annotated[tuple[tuple[str, str], ...], NO_TELEMETRY] = ()
    versions: Annotated[dict[str, str], NO_TELEMETRY] = Field(default={})
    scrape_interval_s: Annotated[float, Field(ge=0.5, le=300)] = 15
    timeout_s: Annotated[Seconds, NO_TELEMETRY] = 20
    allow_faults: Annotated[bool, NO_TELEMETRY] = False
    faults: Annotated[FaultLimits | None, NO_TELEMETRY] = None

    @model_validator(mode="before")
    @classmethod
    def _replicas_follow(cls, data: Any) -> Any:
        services = data.get("services") if isinstance(data, dict) else None
        if not isinstance(services, list | tuple) or not all(isinstance(each, dict) for each in services):
            return data
        counts = [each.get("replicas", 1) for each in services if each.get("role") == "replica"]
        if not all(type(count) is int for count in counts):
            return data
        if data.get("replicas", sum(counts)) != sum(counts):
            raise ValueError(f"replicas: must be left out, or {sum(counts)} as services say (got {data['replicas']})")
        return {**data, "replicas": sum(counts)}

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        names = [name for service in self.services for name in service.names]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"services: {', '.join(twice)}: the name is given twice")
        unknown = {
            "calls": [name for pair in self.calls for name in pair if name not in names],
            "traces.names": [name for name in (self.traces.names.values() if self.traces else ()) if name not in names],
            "faults.services": [name for name in (self.faults.services if self.faults else ()) if name not in names],
        }
        for key, wrong in unknown.items():
            if wrong:
                raise ValueError(f"{key}: unknown service '{wrong[0]}'; allowed: {', '.join(names)}")
        if self.allow_faults and self.faults is None:
            raise ValueError("faults: must be given with allow_faults: the services that may be broken")
        if self.allow_faults and self.kubernetes is None:
            raise ValueError("kubernetes: must be given with allow_faults: faults act on pods")
        return self

    @property
    def slowest_scrape_s(self) -> float:
        return self.scrape_interval_s

    def roles(self) -> dict[str, Role]:
        """Role of each service, in the order of ``services``."""
        return {name: service.role for service in self.services for name in service.names}

    def call_edges(self) -> tuple[tuple[str, str], ...]:
        """Return ``calls``, or what the roles suggest."""
        if self.calls:
            return self.calls
        of = {
            role: [name for name, own in self.roles().items() if own == role] for role in ("gateway", "head", "replica")
        }
        behind = of["head"] or of["replica"]
        pairs = [(gateway, each) for gateway in of["gateway"] for each in behind]
        return (*pairs, *((head, replica) for head in of["head"] for replica in of["replica"]))

    def service_of(self, name: str) -> AttachedService:
        """Return the entry of ``services`` that has this service. Raises KeyError."""
        for service in self.services:
            if name in service.names:
                return service
        raise KeyError(name)
