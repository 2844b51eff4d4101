from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.deploy.kubernetes import names, render
from tasks.deploy.kubernetes.charts import chart_releases, environment, prerequisites
from tasks.deploy.kubernetes.models import model_presets
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.render import dump, install_script, render_stack, write_manifests
from tasks.deploy.kubernetes.serve_config import route_prefixes, serve_config
from tasks.deploy.kubernetes.validate import validate_deploy_params
from tasks.kube.manifest import SHARED_LABELS, STACK_LABEL, Manifest, stack_labels
from tests.deploy.kubernetes.stacks import DOCUMENTS, stack
from tests.kubernetes.pod_security import restricted_problems
from tests.kubernetes.schemas import manifest_problems

GOLDEN = Path(__file__).with_name("golden")
UPDATE = "RCARENA_UPDATE_GOLDEN"
"""Set to 1: the golden files are written anew instead of compared. Look at their diff before you commit it."""

LOCAL_NGINX = Path(render.__file__).parents[1] / "local" / "templates" / "nginx.conf.j2"
SERVE_PYTHON = Path(__file__).parents[3] / ".venv-serve" / "bin" / "python"


@pytest.fixture(params=DOCUMENTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def manifests(name: str = "default", **changes: Any) -> tuple[Manifest, ...]:
    return render_stack(stack(name, **changes)) if changes else _rendered(name)


@cache
def _rendered(name: str) -> tuple[Manifest, ...]:
    return render_stack(stack(name))


def of_kind(kind: str, found: tuple[Manifest, ...]) -> list[Manifest]:
    return [manifest for manifest in found if manifest.kind == kind]


def ray_service(name: str = "default", **changes: Any) -> dict[str, Any]:
    (manifest,) = of_kind("RayService", manifests(name, **changes))
    return manifest.document


def replicas_of(params: KubernetesDeployParams) -> list[str]:
    return [name for name, role in params.roles().items() if role == "replica"]


def pod_templates(found: tuple[Manifest, ...]) -> list[dict[str, Any]]:
    templates = [manifest.document["spec"]["template"] for manifest in of_kind("Deployment", found)]
    for manifest in of_kind("RayService", found):
        cluster = manifest.document["spec"]["rayClusterConfig"]
        templates += [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    return templates


def test_the_default_render_matches_the_golden_file() -> None:
    """One whole render that a person reads in a diff; what must hold in every render, the tests below say."""
    documents = [dump(manifest.document) for manifest in manifests() if not manifest.name.startswith("dashboard-")]
    values = [f"# values of {release.name}\n{dump(release.values)}" for release in chart_releases(stack())]
    text = "---\n".join([*documents, *values])
    file = GOLDEN / "default.yaml"
    if os.environ.get(UPDATE) == "1":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), f"the render changed: look at it, then {UPDATE}=1"


def test_every_manifest_is_valid(name: str) -> None:
    problems = {str(manifest): manifest_problems(manifest.document) for manifest in manifests(name)}
    assert not any(problems.values()), {key: lines for key, lines in problems.items() if lines}


def test_no_template_has_a_key_twice(name: str) -> None:
    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{node.start_mark}: {sorted(keys)}"
            return super().construct_mapping(node, deep)

    context = render.template_context(stack(name))
    for template in set(render.TEMPLATES) - {"dashboards.yaml.j2"}:
        list(yaml.load_all(environment("templates").get_template(template).render(context), UniqueKeys))


def test_rendering_is_a_pure_function(name: str) -> None:
    first = render_stack(stack(name))
    first[0].document["metadata"]["name"] = "spoiled"
    assert render_stack(stack(name)) == manifests(name)
    assert manifests(name)[0].name != "spoiled"


def test_every_object_is_ours_and_named_once(name: str) -> None:
    params = stack(name)
    found = render_stack(params)
    for manifest in found:
        labels = manifest.document["metadata"]["labels"]
        shared = manifest.kind == "CustomResourceDefinition"
        wanted = SHARED_LABELS if shared else stack_labels(params.namespace)
        assert wanted.items() <= labels.items(), str(manifest)
        assert (STACK_LABEL in labels) != shared, str(manifest)
        assert (manifest.namespace is None) == (manifest.kind in render.CLUSTER_SCOPED), str(manifest)
    assert len({manifest.key for manifest in found}) == len(found)


def test_pods_carry_the_labels_by_which_faults_and_monitors_find_them(name: str) -> None:
    params = stack(name)
    templates = pod_templates(render_stack(params))
    assert [template["metadata"]["labels"]["app"] for template in templates] == [*params.service_names()], (
        "one kind of pod per service"
    )
    for template in templates:
        assert stack_labels(params.namespace).items() <= template["metadata"]["labels"].items()


def test_what_is_used_comes_first(name: str) -> None:
    kinds = [manifest.kind for manifest in manifests(name)]
    assert kinds[0] == "Namespace"
    for earlier, later in (
        ("ServiceAccount", "RoleBinding"),
        ("PersistentVolumeClaim", "RayService"),
        ("ConfigMap", "Deployment"),
        ("NetworkPolicy", "RayService"),
    ):
        assert kinds.index(earlier) < kinds.index(later)


def test_what_pods_refer_to_exists(name: str) -> None:
    found = manifests(name)
    have = {(manifest.kind, manifest.name) for manifest in found}
    for template in pod_templates(found):
        pod = template["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == set(volumes), container["name"]
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(paths) == len(set(paths))
            ports = {port["name"] for port in container["ports"]}
            probe = container.get("readinessProbe")
            assert probe is None or probe["httpGet"]["port"] in ports
            variables = [variable["name"] for variable in container["env"]] if "env" in container else []
            assert len(variables) == len(set(variables))
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in have
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in have
        account = pod.get("serviceAccountName", "default")
        assert account == "default" or ("ServiceAccount", account) in have
        assert pod["automountServiceAccountToken"] is (account != "default")
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        for binding in of_kind(kind, found):
            role = binding.document["roleRef"]
            assert (role["kind"], role["name"]) in have
            assert {("ServiceAccount", subject["name"]) for subject in binding.document["subjects"]} <= have


def test_secrets_are_those_that_the_user_is_asked_for(name: str) -> None:
    params = stack(name)
    wanted = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for template in pod_templates(manifests(name))
        for container in template["spec"]["containers"]
        for variable in container.get("env", ())
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert wanted == ({params.model_token.secret} if params.model_token else set())


def test_selectors_match_labels(name: str) -> None:
    """Of services, controllers, monitors, policies and anti-affinities: each selects exactly what it is for."""
    found = manifests(name)
    templates = pod_templates(found)

    def selected(labels: dict[str, str]) -> list[str]:
        return [
            template["metadata"]["labels"]["app"]
            for template in templates
            if labels.items() <= template["metadata"]["labels"].items()
        ]

    for service in of_kind("Service", found):
        selector = service.document["spec"]["selector"]
        assert selected(selector), str(service)
        for template in templates:
            if selector.items() <= template["metadata"]["labels"].items():
                ports = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
                assert {port["targetPort"] for port in service.document["spec"]["ports"]} <= ports, str(service)
    for deployment in of_kind("Deployment", found):
        assert selected(deployment.document["spec"]["selector"]["matchLabels"]) == [deployment.name]
    services = [*stack(name).service_names()]
    for monitor in of_kind("PodMonitor", found):
        labels = monitor.document["spec"]["selector"]["matchLabels"]
        if monitor.name in ("ray", "gateway"):
            assert selected(labels) == (services[1:] if monitor.name == "ray" else services[:1])
            for endpoint in monitor.document["spec"]["podMetricsEndpoints"]:
                for template in templates:
                    if labels.items() <= template["metadata"]["labels"].items():
                        (container,) = template["spec"]["containers"]
                        assert endpoint["port"] in {port["name"] for port in container["ports"]}, str(monitor)
    for template in templates:
        affinity = template["spec"].get("affinity", {}).get("podAntiAffinity", {})
        for term in [
            *affinity.get("requiredDuringSchedulingIgnoredDuringExecution", ()),
            *(each["podAffinityTerm"] for each in affinity.get("preferredDuringSchedulingIgnoredDuringExecution", ())),
        ]:
            assert selected(term["labelSelector"]["matchLabels"]) == [template["metadata"]["labels"]["app"]]


def test_every_pod_but_the_gpu_agent_satisfies_the_restricted_profile(name: str) -> None:
    """What the agent needs is in docs/kubernetes.md; a field more is to be seen here."""
    for template in pod_templates(manifests(name)):
        assert restricted_problems(template["spec"]) == [], template["metadata"]["labels"]["app"]
    agents = of_kind("DaemonSet", manifests(name))
    assert [agent.name for agent in agents] == (["gpu-agent"] if stack(name).accelerator.kind == "nvidia" else [])
    for agent in agents:
        assert restricted_problems(agent.document["spec"]["template"]["spec"]) == [
            "hostPID",
            "volume journal: hostPath",
            "gpu-agent: privileged",
            "gpu-agent: allowPrivilegeEscalation is not false",
            "gpu-agent: does not drop ALL capabilities",
            "gpu-agent: runAsNonRoot is not true",
            "gpu-agent: runAsUser is 0",
            "gpu-agent: no seccompProfile",
        ]
    (namespace,) = of_kind("Namespace", manifests(name))
    labels = namespace.document["metadata"]["labels"]
    assert labels.get("pod-security.kubernetes.io/enforce") == ("privileged" if agents else None)
    assert labels.get("pod-security.kubernetes.io/warn") == (None if agents else "restricted")


def test_every_container_has_its_resources(name: str) -> None:
    params = stack(name)
    for template in pod_templates(manifests(name)):
        (container,) = template["spec"]["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"], "guaranteed: nothing is evicted or throttled by neighbours"
        assert {"cpu", "memory"} <= resources["limits"].keys()
        is_replica = template["metadata"]["labels"]["app"] in replicas_of(params)
        gpus = params.parallelism.tensor if is_replica and params.accelerator.kind != "none" else 0
        assert resources["limits"].get("nvidia.com/gpu", "0") == str(gpus)
        if is_replica:
            assert resources["limits"]["cpu"] == f"{params.resources.replica.cpu_cores:g}"
            assert resources["limits"]["memory"] == f"{params.resources.replica.memory_gb:g}G"


def test_the_gateway_sends_to_a_service_and_port_that_exist(name: str) -> None:
    found = manifests(name)
    (gateway,) = [manifest for manifest in of_kind("ConfigMap", found) if manifest.name == "nginx-proxy"]
    upstreams = re.findall(r"server ([\w-]+)\.([\w-]+)\.svc[\w.]*:(\d+)", gateway.document["data"]["nginx.conf"])
    assert upstreams
    ports = {
        (service.name, service.namespace, str(port["port"]))
        for service in of_kind("Service", found)
        for port in service.document["spec"]["ports"]
    }
    assert set(upstreams) <= ports


def test_every_replica_has_its_pods(name: str) -> None:
    params = stack(name)
    cluster = ray_service(name)["spec"]["rayClusterConfig"]
    assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == replicas_of(params)
    for group in cluster["workerGroupSpecs"]:
        assert group["numOfHosts"] == params.parallelism.pipeline, "pods per replica"
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 1
        assert group["template"]["metadata"]["labels"]["app"] == group["groupName"]
        assert group["rayStartParams"]["num-gpus"] == (
            "0" if params.accelerator.kind == "none" else str(params.parallelism.tensor)
        )


def test_what_the_user_asks_for_reaches_the_pods() -> None:
    """The parameters of the stack over several nodes, each where it takes effect."""
    found = manifests("multi-node")
    endpoint = "http://collector.observability:4317"
    (service,) = of_kind("RayService", found)
    for group in service.document["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert pod["runtimeClassName"] == "nvidia"
        assert pod["nodeSelector"] == {"gpu": "h100"}
        (container,) = pod["containers"]
        assert {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint} in container["env"]
    for application in serve_config(stack("multi-node"))["applications"]:
        (engine,) = application["args"]["llm_configs"]
        assert engine["engine_kwargs"]["max_num_seqs"] == 128
        assert engine["engine_kwargs"]["otlp_traces_endpoint"] == endpoint
        assert engine["placement_group_config"]["strategy"] == "SPREAD"
        assert engine["model_loading_config"]["model_source"].startswith("meta-llama/")
    (gateway,) = [manifest for manifest in of_kind("ConfigMap", found) if manifest.name == "nginx-proxy"]
    assert endpoint.removeprefix("http://") in gateway.document["data"]["nginx.conf"]
    for monitor in of_kind("PodMonitor", found):
        assert {each["interval"] for each in monitor.document["spec"]["podMetricsEndpoints"]} == {"10s"}, str(monitor)
    (head, *workers) = [
        each for each in pod_templates(manifests("cpu-toy")) if each["metadata"]["labels"]["app"] != "nginx-proxy"
    ]
    assert {each["spec"]["containers"][0]["image"] for each in (head, *workers)} == {"rcarena/serve-cpu:0.1.0"}


def test_every_series_of_a_pod_gets_the_service_of_its_pod() -> None:
    (ray,) = [monitor for monitor in of_kind("PodMonitor", manifests()) if monitor.name == "ray"]
    (endpoint,) = ray.document["spec"]["podMetricsEndpoints"]
    assert {"sourceLabels": ["__meta_kubernetes_pod_label_app"], "targetLabel": "service"} in endpoint["relabelings"]
    assert {"targetLabel": "job", "replacement": "ray"} in endpoint["relabelings"], (
        "the metric map asks for up{job='ray'}"
    )


def test_the_token_comes_from_the_secret_and_nowhere_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(variable, "hf_do_not_render_me")
    text = "".join(dump(manifest.document) for manifest in manifests(name))
    assert "hf_do_not_render_me" not in text
    assert not of_kind("Secret", manifests(name))
    for template in pod_templates(manifests(name)):
        for container in template["spec"]["containers"]:
            for variable in container.get("env", ()):
                if variable["name"] == "HF_TOKEN":
                    assert variable["valueFrom"]["secretKeyRef"]["name"] == "huggingface"
                    assert "value" not in variable


def test_a_gated_model_does_not_start_without_its_token() -> None:
    def optional(model: str) -> bool:
        cluster = ray_service(model=model)["spec"]["rayClusterConfig"]
        environment = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["env"]
        (token,) = [variable for variable in environment if variable["name"] == "HF_TOKEN"]
        return bool(token["valueFrom"]["secretKeyRef"]["optional"])

    assert not optional("llama-3.1-8b")
    assert optional("falcon-h1-7b")


def test_the_ray_service_is_what_a_campaign_needs() -> None:
    spec = ray_service()["spec"]
    assert spec["upgradeStrategy"] == {"type": "None"}
    assert spec["excludeHeadPodFromServeSvc"] is True
    cluster = spec["rayClusterConfig"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = cluster["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["ray-replicas-0", "ray-replicas-1", "ray-replicas-2"]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        environment = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert environment["OTEL_SERVICE_NAME"] == group["groupName"]
        assert environment["RAY_metrics_report_interval_ms"] == "2500"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        resources = json.loads(group["rayStartParams"]["resources"].strip("'"))
        assert resources == {"replica_node": 1, "engine_slot": 1, group["groupName"]: 1}


def test_one_application_serves_replicas_of_one_pod() -> None:
    config = yaml.safe_load(ray_service()["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    (engine,) = application["args"]["llm_configs"]
    assert engine["deployment_config"]["num_replicas"] == 3
    assert engine["experimental_configs"]["stream_batching_interval_ms"] == 0
    assert engine["log_engine_metrics"] is True
    assert engine["engine_kwargs"]["otlp_traces_endpoint"].startswith("http://otel-collector.")
    assert engine["placement_group_config"] == {
        "bundle_per_worker": {"CPU": 1, "GPU": 1, "engine_slot": 1},
        "strategy": "PACK",
    }


def test_pipeline_stages_stay_with_their_replica() -> None:
    spec = ray_service("multi-node")["spec"]
    config = yaml.safe_load(spec["serveConfigV2"])
    groups = spec["rayClusterConfig"]["workerGroupSpecs"]
    assert [group["numOfHosts"] for group in groups] == [2, 2]
    assert [application["name"] for application in config["applications"]] == ["ray-replicas-0", "ray-replicas-1"]
    for application, group in zip(config["applications"], groups, strict=True):
        (engine,) = application["args"]["llm_configs"]
        bundle = engine["placement_group_config"]["bundle_per_worker"]
        provided = json.loads(group["rayStartParams"]["resources"].strip("'"))
        assert bundle[application["name"]] > 0
        assert application["name"] in provided
        assert bundle.keys() - {"CPU", "GPU"} <= provided.keys()
        assert engine["engine_kwargs"]["tensor_parallel_size"] == 2
        assert engine["engine_kwargs"]["pipeline_parallel_size"] == 2
        pods = application["args"]["ingress_deployment_config"]
        assert pods["num_replicas"] == 2, "a proxy in every pod, or KubeRay never calls the pod ready"
        assert pods["max_replicas_per_node"] == 1
        affinity = group["template"]["spec"]["affinity"]["podAntiAffinity"]
        assert "preferredDuringSchedulingIgnoredDuringExecution" in affinity


@pytest.mark.parametrize("replicas", [2, 3, 7])
def test_the_gateway_shares_requests_equally_among_applications(replicas: int) -> None:
    params = stack("multi-node", replicas=replicas)
    (gateway,) = [m for m in of_kind("ConfigMap", render_stack(params)) if m.name == "nginx-proxy"]
    block = re.search(r"split_clients \S+ \S+ \{(.*?)\}", gateway.document["data"]["nginx.conf"], re.DOTALL)
    assert block is not None
    shares = dict(reversed(line.strip().rstrip(";").split()) for line in block[1].strip().splitlines())  # type: ignore[misc]
    assert tuple(shares) == route_prefixes(params)
    given = [float(share.rstrip("%")) for share in shares.values() if share != "*"]
    assert abs(100 - sum(given) - given[0]) < 0.01 * replicas + 1e-9
    assert {application["route_prefix"] for application in serve_config(params)["applications"]} == set(shares)


def test_weights_have_a_volume_that_their_pods_can_mount() -> None:
    single = of_kind("PersistentVolumeClaim", manifests())
    assert {claim.name for claim in single} == {
        "workspace",
        "models-ray-replicas-0",
        "models-ray-replicas-1",
        "models-ray-replicas-2",
    }
    shared = {claim.name: claim.document["spec"] for claim in of_kind("PersistentVolumeClaim", manifests("multi-node"))}
    assert set(shared) == {"workspace", "models"}
    assert shared["models"]["accessModes"] == ["ReadWriteMany"]
    assert shared["models"]["storageClassName"] == "fast-nfs"
    assert shared["workspace"]["resources"]["requests"]["storage"] == "500Gi"


def test_a_cpu_stack_asks_for_no_gpu_and_no_mesh() -> None:
    text = "".join(dump(manifest.document) for manifest in manifests("cpu-toy"))
    for word in ("nvidia", "istio.io/dataplane-mode", "HF_TOKEN", "GPU", "ServiceMonitor", "kind: Gateway"):
        assert word not in text, word
    assert "VLLM_CPU_KVCACHE_SPACE" in text


def test_without_installed_telemetry_nothing_outside_the_namespace_is_touched() -> None:
    assert {manifest.namespace for manifest in manifests("multi-node")} == {"llama", None}


def test_access_log_has_the_fields_of_the_local_gateway() -> None:
    def fields(text: str) -> list[str]:
        log = re.search(r"log_format json escape=json(.*?);\n", text, re.DOTALL)
        assert log is not None
        return re.findall(r'"(\w+)":', log[1])

    (gateway,) = [manifest for manifest in of_kind("ConfigMap", manifests()) if manifest.name == "nginx-proxy"]
    ours, local = fields(gateway.document["data"]["nginx.conf"]), fields(LOCAL_NGINX.read_text())
    assert ours == [*local, "span_id"]


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_takes_its_configuration(name: str, tmp_path: Path) -> None:
    (gateway,) = [manifest for manifest in of_kind("ConfigMap", manifests(name)) if manifest.name == "nginx-proxy"]
    text = gateway.document["data"]["nginx.conf"]
    assert text.count("{") == text.count("}")
    without_module = re.sub(r"otel_exporter \{[^}]*\}", "", text)
    without_module = re.sub(r"^\s*(otel_\w+ .*;|load_module .*;)$", "", without_module, flags=re.MULTILINE)
    without_module = without_module.replace("$otel_span_id", "").replace("/tmp", str(tmp_path))
    without_module = re.sub(r"server ray-serve\.[^;:]*:", "server 127.0.0.1:", without_module)
    file = tmp_path / "nginx.conf"
    file.write_text(without_module)
    command = ["nginx", "-t", "-e", str(tmp_path / "error.log"), "-c", str(file)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_no_account_may_read_secrets_or_everything() -> None:
    for role in [*of_kind("Role", manifests()), *of_kind("ClusterRole", manifests())]:
        for rule in role.document["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], role.name
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"] == ["huggingface"]
                assert rule["verbs"] == ["get"]
    accounts = {account.name: account.document for account in of_kind("ServiceAccount", manifests())}
    assert set(accounts) - {"gpu-agent"} == {
        f"rcarena-{task}" for task in ("deploy", "load", "inject", "export", "score", "record")
    }
    tokens = {account for account, document in accounts.items() if document["automountServiceAccountToken"]}
    assert tokens == {"rcarena-deploy", "rcarena-inject", "rcarena-export"}


@settings(max_examples=10, deadline=None)
@given(
    replicas=st.integers(1, 9),
    model=st.sampled_from(["falcon-h1-7b", "llama-3.1-8b", "phi-4"]),
    tensor=st.sampled_from([1, 2]),
    pipeline=st.sampled_from([1, 3]),
    strategy=st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]),
    shared=st.booleans(),
    istio=st.booleans(),
    cores=st.floats(3, 64),
    memory=st.floats(1, 512),
    interval=st.integers(1, 60),
)
def test_what_passes_the_checks_renders_validly(
    replicas: int,
    model: str,
    tensor: int,
    pipeline: int,
    strategy: str,
    shared: bool,
    istio: bool,
    cores: float,
    memory: float,
    interval: int,
) -> None:
    params = stack(
        replicas=replicas,
        model=model,
        parallelism={"tensor": tensor, "pipeline": pipeline},
        placement_strategy=strategy,
        storage={"access_mode": "ReadWriteMany" if shared else "ReadWriteOnce"},
        telemetry={"istio": istio},
        resources={"replica": {"cpu_cores": cores, "memory_gb": memory}},
        scrape_interval_s=interval,
    )
    if not validate_deploy_params(params):
        (service,) = of_kind("RayService", render_stack(params))
        assert manifest_problems(service.document) == []


def test_render_writes_a_file_per_manifest_and_per_chart(tmp_path: Path) -> None:
    params = stack()
    files = write_manifests(params, tmp_path / "out")
    written = sorted(file for file in (tmp_path / "out").rglob("*") if file.is_file() and file.name != render.MARKER)
    assert written == sorted(files)
    documents = [yaml.safe_load(file.read_text()) for file in files if file.parent == tmp_path / "out"]
    assert documents == [manifest.document for manifest in render_stack(params)]
    for release in chart_releases(params):
        values = yaml.safe_load((tmp_path / "out" / "charts" / release.name / "values.yaml").read_text())
        assert values == release.values
    assert subprocess.run(["sh", "-n", str(tmp_path / "out" / "charts" / "install.sh")]).returncode == 0


def test_the_install_script_has_a_pinned_command_per_chart() -> None:
    releases = chart_releases(stack())
    assert "kubectl apply --server-side" in install_script(releases, prerequisites(stack()))
    commands = [line for line in install_script(releases).splitlines() if line.startswith("helm upgrade --install")]
    assert len(commands) == len(releases)
    for command, release in zip(commands, releases, strict=True):
        assert f"--version {release.version} --namespace {release.namespace}" in command


def test_a_second_render_replaces_the_first_as_a_whole(tmp_path: Path) -> None:
    write_manifests(stack(replicas=5), tmp_path / "out")
    files = write_manifests(stack("cpu-toy"), tmp_path / "out")
    left = set((tmp_path / "out").rglob("*.yaml"))
    assert left == {file for file in files if file.suffix == ".yaml"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_render_leaves_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_manifests(stack(), tmp_path / "out")

    def broken(*_: object) -> tuple[()]:
        raise OSError("disk full")

    monkeypatch.setattr(render, "chart_releases", broken)
    with pytest.raises(OSError, match="disk full"):
        write_manifests(stack(), tmp_path / "out")
    assert all(file.exists() for file in before)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_render_does_not_replace_what_it_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds other files"):
        write_manifests(stack(), tmp_path)
    assert (tmp_path / "thesis.tex").exists()


CHECK_BY_RAY = """
import json, sys
from ray import serve
from ray.serve.schema import ServeDeploySchema
from ray.llm._internal.serve.core.ingress.builder import LLMServingArgs
bundles = {}
for name, config in json.load(sys.stdin).items():
    ServeDeploySchema.model_validate(config)
    for application in config["applications"]:
        arguments = LLMServingArgs.model_validate(application["args"])
        serve.deployment(type("Ingress", (), {}), **arguments.ingress_deployment_config)
        bundles.setdefault(name, []).extend(e.get_engine_config().placement_bundles for e in arguments.llm_configs)
print("BUNDLES", json.dumps(bundles))
"""


@pytest.mark.timeout(900)
@pytest.mark.skipif(os.environ.get("RCARENA_CHECK_SERVE") != "1", reason="a minute of CPU: set RCARENA_CHECK_SERVE=1")
@pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="needs .venv-serve")
def test_ray_accepts_the_serve_configurations(tmp_path: Path) -> None:
    """It imports the router that pods have by their ConfigMap."""
    (code,) = [each.document for each in of_kind("ConfigMap", manifests()) if each.name == names.SERVE_CODE_MAP]
    (tmp_path / f"{names.ROUTING_MODULE}.py").write_text(code["data"][f"{names.ROUTING_MODULE}.py"])
    stacks = {each: stack(each) for each in DOCUMENTS} | {model: stack(model=model) for model in model_presets()}
    configurations = {each: serve_config(params) for each, params in stacks.items()}
    command = [SERVE_PYTHON, "-c", CHECK_BY_RAY]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, input=json.dumps(configurations), capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("BUNDLES")]
    for each, bundles in json.loads(line.removeprefix("BUNDLES")).items():
        parallelism = stacks[each].parallelism
        assert len(bundles) == len(configurations[each]["applications"])
        assert all(len(bundle) == parallelism.tensor * parallelism.pipeline for bundle in bundles)
