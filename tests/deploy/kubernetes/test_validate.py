from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.commands.check import check_params
from tasks.deploy.kubernetes.models import model_presets
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.render import render_stack
from tasks.deploy.kubernetes.validate import validate_deploy_params
from tasks.errors import ParamsError
from tasks.params import load_params
from tests.deploy.kubernetes.stacks import DOCUMENTS, stack

KIND = Path(__file__).parents[3] / "kind"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_stacks_of_the_renders_have_no_problem(name: str) -> None:
    assert validate_deploy_params(stack(name)) == []


@pytest.mark.parametrize("model", model_presets())
def test_every_preset_can_be_deployed(model: str) -> None:
    assert validate_deploy_params(stack(model=model)) == []
    assert render_stack(stack(model=model))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"model": "falcon-h1-8b"},
            "deploy.model: unknown model 'falcon-h1-8b'; did you mean 'falcon-h1-7b'? allowed:",
        ),
        (
            {"parallelism": {"tensor": 3}},
            "deploy.parallelism.tensor: the attention heads of 'falcon-h1-7b' allow 1, 2 (got",
        ),
        (
            {"model": "toy-cpu", "parallelism": {"pipeline": 4}, "storage": {"access_mode": "ReadWriteMany"}},
            "deploy.parallelism.pipeline: 'toy-cpu' has 2 layers (got 4)",
        ),
        ({"model": "gemma-2-9b", "model_token": None}, "deploy.model_token: 'gemma-2-9b' is gated"),
        ({"engine_arguments": {"served_model_name": "x"}}, "deploy.engine_arguments.served_model_name: follows from"),
        ({"namespace": "kube-system"}, "deploy.namespace: 'kube-system' holds other things"),
        ({"namespace": "chaos-mesh"}, "deploy.namespace: 'chaos-mesh' holds other things"),
        (
            {"accelerator": {"kind": "none"}},
            "deploy.model: 'falcon-h1-7b' needs GPUs; with accelerator.kind none: qwen2.5",
        ),
        (
            {
                "model": "qwen2.5-0.5b",
                "accelerator": {"kind": "none"},
                "resources": {"replica": {"cpu_cores": 4, "memory_gb": 2}},
            },
            "deploy.resources.replica.memory_gb: must be at least 7 for 'qwen2.5-0.5b' on CPUs (got 2)",
        ),
        (
            {"model": "toy-cpu", "accelerator": {"kind": "none"}, "parallelism": {"tensor": 2}},
            "deploy.parallelism: must be tensor 1 and pipeline 1 with accelerator.kind none",
        ),
        (
            {"model": "toy-cpu", "accelerator": {"kind": "none"}, "telemetry": {"gpu_operator": True}},
            "deploy.telemetry.gpu_operator: there are no GPUs",
        ),
        (
            {"accelerator": {"resource": "gpu"}},
            "deploy.accelerator.resource: must look like 'nvidia.com/gpu' (got 'gpu')",
        ),
        (
            {"accelerator": {"tolerations": [{"key": "gpu", "operator": "Equal"}]}},
            "deploy.accelerator.tolerations[0].value: belongs to operator Equal",
        ),
        (
            {"accelerator": {"tolerations": [{"key": "gpu", "value": "yes"}]}},
            "deploy.accelerator.tolerations[0].value: belongs to operator Equal",
        ),
        ({"parallelism": {"pipeline": 2}}, "deploy.storage.access_mode: must be ReadWriteMany with pipeline stages"),
        (
            {
                "parallelism": {"pipeline": 2},
                "storage": {"access_mode": "ReadWriteMany"},
                "placement_strategy": "STRICT_PACK",
            },
            "deploy.placement_strategy: STRICT_PACK puts a replica into one pod",
        ),
        (
            {"parallelism": {"tensor": 2}, "placement_strategy": "SPREAD"},
            "deploy.placement_strategy: SPREAD cannot spread the accelerators of one pod",
        ),
        (
            {
                "parallelism": {"tensor": 2, "pipeline": 2},
                "storage": {"access_mode": "ReadWriteMany"},
                "placement_strategy": "STRICT_SPREAD",
            },
            "deploy.placement_strategy: STRICT_SPREAD gives each accelerator a pod of its own",
        ),
        (
            {"parallelism": {"tensor": 2}, "resources": {"replica": {"cpu_cores": 2, "memory_gb": 32}}},
            "deploy.resources.replica.cpu_cores: must be at least 3",
        ),
        ({"context": "a", "contexts": ["a", "b"]}, "deploy.contexts: not together with context"),
        ({"contexts": ["a", "a"]}, "deploy.contexts: one is named twice"),
        ({"contexts": ["a", "b"], "stacks": 3}, "deploy.stacks: must be 2, one per context, or be left out (got 3)"),
        ({"namespace": "n" * 62, "stacks": 2}, "deploy.namespace: '" + "n" * 62 + "-1' is longer than 63 characters"),
        (
            {"stacks": 2, "endpoints": {"gateway": "http://one"}},
            "deploy.endpoints.gateway: must contain {stack}, each of the 2 stacks has its own (got 'http://one')",
        ),
        (
            {"contexts": ["a", "b"], "endpoints": {"prometheus": "http://one"}},
            "deploy.endpoints.prometheus: must contain {stack}",
        ),
        ({"images": {"serve": "rayproject/ray-llm"}}, "deploy.images.serve: must name a version"),
        ({"images": {"gateway": "nginx:latest"}}, "deploy.images.gateway: 'latest' names no version"),
        ({"images": {"tasks": "localhost:5000/rcarena/tasks"}}, "deploy.images.tasks: must name a version"),
    ],
)
def test_a_problem_is_named_with_its_key(changes: dict[str, Any], problem: str) -> None:
    problems = validate_deploy_params(stack(**changes))
    assert any(line.startswith(problem) for line in problems), problems
    assert all("\n" not in line for line in problems)


def test_stacks_side_by_side_differ_by_their_place_alone() -> None:
    several = stack(namespace="lab", stacks=3, endpoints={"gateway": "http://gw-{stack}", "loki": "http://loki"})
    assert validate_deploy_params(several) == []
    assert several.stack_count == 3
    second = several.of_stack(1)
    assert (second.namespace, second.stack_count) == ("lab-1", 1)
    assert (second.endpoints.gateway, second.endpoints.loki) == ("http://gw-1", "http://loki")
    assert validate_deploy_params(second) == []
    alone = stack(namespace="lab")
    assert alone.of_stack(None) == alone
    there = [{(each.kind, each.namespace, each.name) for each in render_stack(several.of_stack(i))} for i in range(3)]
    assert {kind for kind, *_ in there[0] & there[1] | there[1] & there[2]} <= {"CustomResourceDefinition"}


def test_one_stack_per_context_keeps_its_namespace() -> None:
    several = stack(namespace="lab", contexts=["east", "west"])
    assert several.stack_count == 2
    assert [(each.context, each.namespace) for each in map(several.of_stack, range(2))] == [
        ("east", "lab"),
        ("west", "lab"),
    ]


@pytest.mark.parametrize(
    "image",
    [
        "nginx:1.29.3-otel",
        "docker.io/library/nginx:1.29.3-otel",
        "localhost:5000/rcarena/tasks:0.1.0",
        "ghcr.io/a/b@sha256:" + "0" * 64,
        "ghcr.io/a/b:1.0@sha256:" + "0" * 64,
    ],
)
def test_images_with_a_version_are_taken(image: str) -> None:
    assert validate_deploy_params(stack(images={"serve": image})) == []


def test_where_names_the_section() -> None:
    assert validate_deploy_params(stack(model="x"), "stacks[1]")[0].startswith("stacks[1].model: unknown model 'x'")


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_the_parameters_for_kind_are_valid(profile: str) -> None:
    file = KIND / f"params-{profile}.yaml"
    params = load_params(file)
    check_params(params, str(file))
    assert isinstance(params.deploy, KubernetesDeployParams)
    assert (params.deploy.accelerator.kind == "nvidia") == (profile == "gpu")
    assert render_stack(params.deploy)


def test_params_check_asks_the_stack_too(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text((KIND / "params-cpu.yaml").read_text().replace("model: toy-cpu", "model: toy-cpuu"))
    with pytest.raises(ParamsError, match="unknown model 'toy-cpuu'; did you mean 'toy-cpu'"):
        check_params(load_params(file), str(file))
