"""The section ``deploy`` of the parameters for a stack on a Kubernetes cluster."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from tasks.identity import NO_TELEMETRY
from tasks.stack import DnsLabel, StackParams
from tasks.validation import Frozen, Plain, Seconds

STACK_MARK = "{stack}"
Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+")]


class Parallelism(Frozen):
    """Spread of one replica over accelerators; data parallelism is ``replicas``.

    ``tensor`` accelerators share each layer and sit in one pod; each of the ``pipeline`` stages is a pod, which may be
    on another node.
    """

    tensor: Annotated[int, Field(ge=1, le=16)] = 1
    pipeline: Annotated[int, Field(ge=1, le=16)] = 1


class Toleration(Frozen):
    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = "NoSchedule"


class Accelerator(Frozen):
    """Hardware of an engine. ``none``: a CPU engine for clusters without GPUs."""

    kind: Literal["nvidia", "none"] = "nvidia"
    resource: str = "nvidia.com/gpu"
    runtime_class: DnsLabel | None = None
    node_selector: dict[str, str] = Field(default={})
    tolerations: tuple[Toleration, ...] = (Toleration(key="nvidia.com/gpu"),)


class PodResources(Frozen):
    """Resources of one pod: its requests and its limits."""

    cpu_cores: Annotated[float, Field(gt=0, le=512)]
    memory_gb: Annotated[float, Field(gt=0, le=8192)]


class StackResources(Frozen):
    gateway: PodResources = PodResources(cpu_cores=1, memory_gb=1)
    head: PodResources = PodResources(cpu_cores=4, memory_gb=16)
    replica: PodResources = PodResources(cpu_cores=8, memory_gb=48)


class Images(Frozen):
    """Our images and the engine's. A digest (``name@sha256:...``) makes a campaign repeatable."""

    serve: str = "docker.io/rayproject/ray-llm:2.60.0-py312-cu130"
    gateway: str = "docker.io/library/nginx:1.29.3-otel"
    tasks: Annotated[str, NO_TELEMETRY] = "rcarena/tasks:0.1.0"
    gpu_agent: Annotated[str, NO_TELEMETRY] = "rcarena/gpu-agent:0.1.0"
    pull_policy: Annotated[Literal["IfNotPresent", "Always", "Never"], NO_TELEMETRY] = "IfNotPresent"


class Storage(Frozen):
    """Volumes: one for workspaces (``size_gb``), others for the weights (``models_gb``; None: enough for the model).

    ``class_name`` None: the cluster's default class. With ``ReadWriteMany`` all replicas share one volume of weights;
    with ``ReadWriteOnce`` each has its own, and the pods of all tasks must fit on one node.
    """

    class_name: DnsLabel | None = None
    size_gb: Annotated[int, Field(ge=1, le=65_536)] = 200
    models_gb: Annotated[int, Field(ge=1, le=65_536)] | None = None
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"


class SecretKey(Frozen):
    """Key of an existing Secret in the namespace; the value is never a parameter."""

    secret: DnsLabel = "huggingface"  # noqa: S105 (the name of the Secret)
    key: str = "token"


class Telemetry(Frozen):
    """Telemetry installed beside the stack. ``install: false``: the cluster has it; give its URLs in ``endpoints``.

    ``istio: false``: no mesh, hence no latency per call from a waypoint. ``otlp_endpoint`` receives the spans of the
    stack's pods (gRPC).
    """

    install: bool = True
    istio: bool = True
    deepflow: bool = False
    gpu_operator: bool = False
    otlp_endpoint: Annotated[Url, NO_TELEMETRY] = "http://otel-collector.rcarena-telemetry.svc.cluster.local:4317"


class Endpoints(Frozen):
    """Base URLs as seen from this process. None: cluster DNS in a pod, ``kubectl port-forward`` elsewhere.

    Of several stacks ``{stack}`` in a URL stands for the index of each.
    """

    gateway: Url | None = None
    prometheus: Url | None = None
    loki: Url | None = None
    spans: Url | None = None
    deepflow: Url | None = None


class KubernetesDeployParams(StackParams):
    """A stack on a Kubernetes cluster: NGINX, KubeRay's RayService, vLLM, and its telemetry.

    Several ``stacks`` are in namespaces ``<namespace>-0``, ``-1`` …; with ``contexts`` one is in ``namespace`` of each.
    The accounts that act on the stack, and the volume of the workspace, are in ``accounts_namespace``; None: in the
    stack's own, of several on one cluster in that of the first, so that pods of one namespace use them all.
    """

    backend: Literal["kubernetes"]
    context: str | None = None
    contexts: Annotated[tuple[str, ...], Field(max_length=64), NO_TELEMETRY] = ()
    namespace: Annotated[DnsLabel, NO_TELEMETRY] = "rcarena"
    accounts_namespace: Annotated[DnsLabel | None, NO_TELEMETRY] = None
    model: str = "falcon-h1-7b"
    engine_arguments: dict[str, Plain] = Field(default={})
    parallelism: Parallelism = Parallelism()
    placement_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    accelerator: Accelerator = Accelerator()
    resources: StackResources = StackResources()
    images: Images = Images()
    storage: Annotated[Storage, NO_TELEMETRY] = Storage()
    model_token: Annotated[SecretKey | None, NO_TELEMETRY] = SecretKey()
    telemetry: Telemetry = Telemetry()
    endpoints: Annotated[Endpoints, NO_TELEMETRY] = Endpoints()
    scrape_interval_s: Annotated[int, Field(ge=1, le=60)] = 5
    start_timeout_s: Annotated[Seconds, NO_TELEMETRY] = 1800

    @property
    def stack_count(self) -> int:
        return len(self.contexts) or self.stacks

    def of_stack(self, index: int | None) -> Self:
        """Return the parameters of one of several stacks. One beyond ``contexts`` has the context of its address."""
        if index is None:
            return self
        urls = {
            name: url.replace(STACK_MARK, str(index)) if isinstance(url, str) else None
            for name, url in self.endpoints.model_dump().items()
        }
        changes: dict[str, object] = {"stacks": 1, "contexts": (), "endpoints": Endpoints(**urls)}
        if self.contexts:
            changes["context"] = self.contexts[index] if index < len(self.contexts) else None
        else:
            changes["namespace"] = f"{self.namespace}-{index}"
            changes["accounts_namespace"] = self.accounts_namespace or f"{self.namespace}-0"
        return self.model_copy(update=changes)

    @property
    def slowest_scrape_s(self) -> float:
        """Seconds between scrapes; Ray reports twice as often."""
        return float(self.scrape_interval_s)

    @property
    def gpus_per_pod(self) -> int:
        return self.parallelism.tensor if self.accelerator.kind == "nvidia" else 0
