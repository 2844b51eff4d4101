"""Validates Kubernetes parameters across fields."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.deploy.kubernetes.models import ModelPreset, model_presets
from tasks.deploy.kubernetes.names import FOREIGN_NAMESPACES
from tasks.deploy.kubernetes.params import STACK_MARK, KubernetesDeployParams
from tasks.deploy.kubernetes.serve_config import MANAGED_ENGINE_ARGUMENTS
from tasks.text import suggest

_IMAGE = re.compile(r"^[a-z0-9][\w.\-/:]*?(?P<version>:[\w][\w.\-]{0,127}|@sha256:[0-9a-f]{64})$")
_RESOURCE = re.compile(r"^[a-z0-9]([a-z0-9.\-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.\-]*[A-Za-z0-9])?$")
_HOST_CPUS_PER_REPLICA = 1
LONGEST_LABEL = 63


def validate_deploy_params(params: KubernetesDeployParams, where: str = "deploy") -> list[str]:
    """Return one line per problem, each naming its key below ``where``; empty when ``params`` can be rendered."""
    presets = model_presets()
    problems = [
        *_names(params),
        *_stacks(params),
        *_accelerator(params),
        *_images(params),
        *_placement(params),
        *_storage(params),
    ]
    if params.model not in presets:
        problems.insert(0, f"model: unknown model '{params.model}'; {suggest(params.model, presets)}")
    else:
        problems += _model(params, presets[params.model])
    return [f"{where}.{problem}" for problem in problems]


def _names(params: KubernetesDeployParams) -> Iterator[str]:
    if params.namespace in FOREIGN_NAMESPACES or params.namespace.startswith("kube-"):
        yield f"namespace: '{params.namespace}' holds other things than a stack; choose a namespace of its own"


def _stacks(params: KubernetesDeployParams) -> Iterator[str]:
    count = params.stack_count
    if params.contexts:
        if params.context is not None:
            yield "contexts: not together with context"
        if len(set(params.contexts)) < count:
            yield "contexts: one is named twice"
        if params.stacks not in (1, count):
            yield f"stacks: must be {count}, one per context, or be left out (got {params.stacks})"
    if count == 1:
        return
    longest = f"{params.namespace}-{count - 1}"
    if not params.contexts and len(longest) > LONGEST_LABEL:
        yield f"namespace: '{longest}' is longer than {LONGEST_LABEL} characters"
    for name, url in params.endpoints.model_dump().items():
        if url is not None and STACK_MARK not in url and (name == "gateway" or params.contexts):
            yield f"endpoints.{name}: must contain {STACK_MARK}, each of the {count} stacks has its own (got '{url}')"


def _model(params: KubernetesDeployParams, preset: ModelPreset) -> Iterator[str]:
    tensor, pipeline = params.parallelism.tensor, params.parallelism.pipeline
    if params.accelerator.kind == "none":
        if not preset.runs_on_cpu:
            usable = [name for name, each in model_presets().items() if each.runs_on_cpu]
            yield f"model: '{params.model}' needs GPUs; with accelerator.kind none: {', '.join(usable)}"
        elif params.resources.replica.memory_gb < 3 * preset.weights_gb + 4:
            yield (
                f"resources.replica.memory_gb: must be at least {3 * preset.weights_gb + 4:g} for '{params.model}' on "
                f"CPUs (got {params.resources.replica.memory_gb:g})"
            )
    elif tensor not in preset.tensor_parallel:
        sizes = ", ".join(map(str, preset.tensor_parallel))
        yield f"parallelism.tensor: the attention heads of '{params.model}' allow {sizes} (got {tensor})"
    if pipeline > preset.layers:
        yield f"parallelism.pipeline: '{params.model}' has {preset.layers} layers (got {pipeline})"
    if preset.gated and params.model_token is None:
        yield (
            f"model_token: '{params.model}' is gated: name a Secret with the token of an account that accepted its "
            "licence, {secret: huggingface, key: token}"
        )
    for key in sorted(MANAGED_ENGINE_ARGUMENTS & params.engine_arguments.keys()):
        yield f"engine_arguments.{key}: follows from other parameters and cannot be set here"


def _accelerator(params: KubernetesDeployParams) -> Iterator[str]:
    tensor, pipeline = params.parallelism.tensor, params.parallelism.pipeline
    if params.accelerator.kind == "none":
        if tensor * pipeline > 1:
            yield "parallelism: must be tensor 1 and pipeline 1 with accelerator.kind none"
        if params.telemetry.gpu_operator:
            yield "telemetry.gpu_operator: there are no GPUs with accelerator.kind none"
    if not _RESOURCE.fullmatch(params.accelerator.resource):
        yield f"accelerator.resource: must look like 'nvidia.com/gpu' (got '{params.accelerator.resource}')"
    for i, toleration in enumerate(params.accelerator.tolerations):
        if (toleration.operator == "Equal") != (toleration.value is not None):
            yield f"accelerator.tolerations[{i}].value: belongs to operator Equal, and to no other"


def _placement(params: KubernetesDeployParams) -> Iterator[str]:
    tensor, pipeline = params.parallelism.tensor, params.parallelism.pipeline
    if params.placement_strategy == "STRICT_PACK" and pipeline > 1:
        yield "placement_strategy: STRICT_PACK puts a replica into one pod, but pipeline stages are pods of their own"
    if params.placement_strategy in ("SPREAD", "STRICT_SPREAD") and tensor > 1 and pipeline == 1:
        yield f"placement_strategy: {params.placement_strategy} cannot spread the accelerators of one pod; use PACK"
    if params.placement_strategy == "STRICT_SPREAD" and tensor > 1 and pipeline > 1:
        yield "placement_strategy: STRICT_SPREAD gives each accelerator a pod of its own: tensor must be 1"
    needed = tensor + _HOST_CPUS_PER_REPLICA
    if params.resources.replica.cpu_cores < needed:
        yield (
            f"resources.replica.cpu_cores: must be at least {needed}, one per accelerator of the pod and one for the "
            f"replica (got {params.resources.replica.cpu_cores:g})"
        )


def _storage(params: KubernetesDeployParams) -> Iterator[str]:
    if params.parallelism.pipeline > 1 and params.storage.access_mode != "ReadWriteMany":
        yield "storage.access_mode: must be ReadWriteMany with pipeline stages, whose pods may be on several nodes"


def _images(params: KubernetesDeployParams) -> Iterator[str]:
    for name in ("serve", "gateway", "tasks", "gpu_agent"):
        image = getattr(params.images, name)
        match = _IMAGE.fullmatch(image)
        if match is None:
            yield f"images.{name}: must name a version (name:tag or name@sha256:...) (got '{image}')"
        elif match["version"] == ":latest":
            yield f"images.{name}: 'latest' names no version; a campaign could not be repeated"
