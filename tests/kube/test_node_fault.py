"""The schema that the API server holds against a NodeFault says what the JSON schema and the types say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.render import render_stack
from tasks.kube.node_fault import (
    API_VERSION,
    KIND,
    PLURAL,
    Action,
    NodeFault,
    NodeFaultError,
    NodeFaultStatus,
    Phase,
    Saved,
    SavedGpu,
    SavedProcess,
)
from tests.node_agent.machine import GPU, fault_document

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "tests/kubernetes/schemas/nodefault.json").read_text())


@pytest.fixture(scope="module")
def definition() -> dict[str, Any]:
    manifests = render_stack(KubernetesDeployParams(backend="kubernetes", replicas=1))
    (found,) = [each.document for each in manifests if each.kind == "CustomResourceDefinition"]
    return found


def fields(schema: dict[str, Any]) -> Any:
    """Names of fields, and what must be there, without the words of either kind of schema."""
    if "properties" in schema:
        inner = {name: fields(each) for name, each in schema["properties"].items()}
        return inner, sorted(schema.get("required", []))
    return fields(schema["items"]) if "items" in schema else sorted(schema.get("enum", []))


def test_the_definition_and_the_json_schema_have_the_same_fields(definition: dict[str, Any]):
    (version,) = definition["spec"]["versions"]
    api = version["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        assert fields(api[part]) == fields(SCHEMA["properties"][part])
    assert definition["spec"]["names"]["plural"] == PLURAL
    assert f"{definition['spec']['group']}/{version['name']}" == API_VERSION
    assert definition["spec"]["names"]["kind"] == KIND


def test_actions_and_phases_are_those_of_the_types():
    assert SCHEMA["properties"]["spec"]["properties"]["action"]["enum"] == list(get_args(Action))
    assert SCHEMA["properties"]["status"]["properties"]["phase"]["enum"] == list(get_args(Phase))


def test_a_status_with_everything_is_valid():
    gpu = SavedGpu(uuid=GPU, old_watts=1, min_watts=1, default_watts=1, max_watts=1, set_watts=1, max_mhz=1, set_mhz=1)
    saved = Saved(gpus=(gpu,), processes=(SavedProcess(pid=1, start_ticks=2, name="VLLM::EngineCore"),))
    now = datetime.now(UTC)
    status = NodeFaultStatus(phase="Restored", saved=saved, applied_at=now, restored_at=now, message="done")
    jsonschema.validate(fault_document() | {"status": status.document()}, SCHEMA)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"action": "power-limit", "value": 150, "fraction": 0.5}, "needs either value or fraction"),
        ({"action": "clock-lock"}, "needs either value or fraction"),
        ({"action": "engine-pause", "value": 3}, "takes neither value nor fraction"),
        ({"value": -5}, "spec.value|value: "),
        ({"durationSeconds": 0}, "durationSeconds: "),
        ({"action": "explode", "value": 1}, "action: "),
        ({"podUid": ""}, "podUid: "),
    ],
)
def test_types_and_schema_refuse_the_same(spec: dict[str, Any], problem: str):
    document = fault_document(**spec)
    with pytest.raises(NodeFaultError, match=problem):
        NodeFault.of(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


@pytest.mark.parametrize("action", get_args(Action))
def test_types_and_schema_accept_the_same(action: Action):
    amount = {"fraction": 0.5} if action in ("power-limit", "clock-lock") else {}
    document = fault_document(action=action, **amount)
    if action == "power-limit":
        del document["spec"]["fraction"]
        document["spec"]["value"] = 150
    assert NodeFault.of(document).spec.action == action
    jsonschema.validate(document, SCHEMA)


def test_the_agent_may_do_what_it_does_and_no_more():
    manifests = render_stack(KubernetesDeployParams(backend="kubernetes", replicas=1))
    found = {each.kind: each.document for each in manifests if each.name == "gpu-agent"}
    assert set(found) == {"ServiceAccount", "Role", "RoleBinding", "DaemonSet"}
    allowed = {(r, v) for rule in found["Role"]["rules"] for r in rule["resources"] for v in rule["verbs"]}
    assert allowed == {
        ("nodefaults", "get"), ("nodefaults", "list"), ("nodefaults", "patch"),
        ("nodefaults/status", "get"), ("nodefaults/status", "patch"),
        ("pods", "get"), ("pods", "list"),
        ("configmaps", "get"), ("configmaps", "create"), ("configmaps", "patch"),
    }  # fmt: skip
    pod = found["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["hostPID"] is True
    assert "ports" not in pod["containers"][0]
    assert pod["volumes"][0]["hostPath"]["path"] == "/var/lib/rcarena/node-agent"
