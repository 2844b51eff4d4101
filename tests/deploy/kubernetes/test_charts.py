from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.deploy.kubernetes import charts, names
from tasks.deploy.kubernetes.charts import ChartRelease, ContainerRuntime, chart_releases, prerequisites
from tasks.deploy.kubernetes.render import render_stack
from tests.deploy.kubernetes.stacks import stack
from tests.kubernetes.schemas import values_problems

K3S = ContainerRuntime("containerd", "/run/k3s/containerd/containerd.sock", "k3s")
EVERYTHING = {"telemetry": {"deepflow": True, "gpu_operator": True}, "storage": {"class_name": "fast"}}
NEEDED_COUNTERS = {
    "DCGM_FI_DEV_POWER_VIOLATION",
    "DCGM_FI_DEV_THERMAL_VIOLATION",
    "DCGM_EXP_CLOCK_EVENTS_COUNT",
    "DCGM_FI_DEV_SM_CLOCK",
    "DCGM_FI_DEV_POWER_MGMT_LIMIT",
    "DCGM_FI_PROF_SM_ACTIVE",
}


def release(name: str, runtime: ContainerRuntime = charts.DEFAULT_RUNTIME, **changes: Any) -> ChartRelease:
    (found,) = [each for each in chart_releases(stack(**changes), runtime) if each.name == name]
    return found


def test_every_release_of_the_list_can_be_switched_on() -> None:
    listed = [entry["name"] for entry in yaml.safe_load(charts.CHARTS_FILE.read_text())["releases"]]
    assert [each.name for each in chart_releases(stack(**EVERYTHING))] == listed


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"telemetry": {"istio": False}}, {"istio-base", "istiod", "istio-cni", "ztunnel"}),
        ({"accelerator": {"kind": "none"}}, {"dcgm-exporter"}),
        ({}, {"deepflow", "gpu-operator"}),
    ],
)
def test_switches_turn_releases_off(changes: dict[str, Any], gone: set[str]) -> None:
    assert gone.isdisjoint(each.name for each in chart_releases(stack(**changes)))


def test_nothing_is_installed_on_a_cluster_that_has_it_all() -> None:
    assert chart_releases(stack(telemetry={"install": False, "deepflow": True})) == ()


CRIO = ContainerRuntime("crio", "/var/run/crio/crio.sock", "openshift")
KIND = ContainerRuntime(distribution="kind")


@pytest.mark.parametrize("runtime", [charts.DEFAULT_RUNTIME, K3S, CRIO, KIND])
@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"accelerator": {"kind": "none"}, "telemetry": {"istio": False}}])
def test_values_have_no_unknown_key(changes: dict[str, Any], runtime: ContainerRuntime) -> None:
    assert [line for each in chart_releases(stack(**changes), runtime) for line in values_problems(each)] == []


def keys_of(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return []
    return [each for key, item in value.items() for each in ((*path, key), *keys_of(item, (*path, key)))]


FREE = re.compile(
    r"nodeSelector|limits|requests|config\.(receivers|processors|exporters)|config\.service\.pipelines\.|ports\."
)


def test_a_typo_in_the_values_is_found() -> None:
    missed, tried = [], 0
    for each in chart_releases(stack(**EVERYTHING), K3S):
        for path in keys_of(each.values):
            copied = json.loads(json.dumps(each.values))
            parent = copied
            for key in path[:-1]:
                parent = parent[key]
            parent[f"{path[-1]}x"] = parent.pop(path[-1])
            if FREE.search(".".join(path)):
                continue
            tried += 1
            if not values_problems(replace(each, values=copied)):
                missed.append(f"{each.name}: {'.'.join(path)}")
    assert missed == []
    assert tried > 150


def test_versions_are_pinned_and_say_where_they_were_seen() -> None:
    for each in chart_releases(stack(**EVERYTHING)):
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", each.version), each.name
        assert each.repo.startswith("https://"), each.name
        assert re.search(r" 20\d\d", each.seen), each.name


def test_the_mesh_comes_from_where_it_stays() -> None:
    """Istio's charts and images on Google's hosts end in December 2026."""
    mesh = [each for each in chart_releases(stack()) if each.switch == "telemetry.istio"]
    assert {each.repo for each in mesh} == {"https://blob.istio.io/istio-release/charts"}
    hubs = {each.name: each.values.get("global", {}).get("hub") for each in mesh if each.name != "istio-base"}
    assert set(hubs.values()) == {"docker.io/istio"}


def test_every_kind_that_we_render_is_brought_by_a_chart_or_asked_for() -> None:
    groups = {crd.partition(".")[2] for each in chart_releases(stack()) for crd in each.crds}
    groups |= {each.crd.partition(".")[2] for each in prerequisites(stack())}
    built_in = {"", "apps", "rbac.authorization.k8s.io", "networking.k8s.io", "apiextensions.k8s.io"}
    assert {manifest.key[0] for manifest in render_stack(stack())} <= groups | built_in


def test_faults_reach_only_namespaces_that_allow_them() -> None:
    values = release("chaos-mesh").values
    assert values["controllerManager"]["enableFilterNamespace"] is True
    (namespace,) = [manifest for manifest in render_stack(stack()) if manifest.kind == "Namespace"]
    assert namespace.document["metadata"]["annotations"]["chaos-mesh.org/inject"] == "enabled"
    assert namespace.document["metadata"]["labels"]["istio.io/dataplane-mode"] == "ambient"
    assert release("chaos-mesh").namespace_labels["istio.io/dataplane-mode"] == "none"


def test_chaos_mesh_gets_the_socket_that_preflight_found() -> None:
    assert release("chaos-mesh", K3S).values["chaosDaemon"]["socketPath"] == K3S.socket
    assert release("istio-cni", K3S).values["global"]["platform"] == "k3s"
    assert release("chaos-mesh", CRIO).values["chaosDaemon"]["runtime"] == "crio"


def toolkit(runtime: ContainerRuntime) -> dict[str, str]:
    values = release("gpu-operator", runtime, **EVERYTHING).values
    return {each["name"]: each["value"] for each in values.get("toolkit", {}).get("env", ())}


def test_the_distribution_and_not_the_socket_decides_where_things_lie() -> None:
    """RKE2 has the socket of k3s, and neither its plugins' folder nor its configuration."""
    rke2 = replace(K3S, distribution="rke2")
    assert "platform" not in release("istio-cni", rke2).values["global"]
    assert toolkit(K3S)["CONTAINERD_CONFIG"] != toolkit(rke2)["CONTAINERD_CONFIG"]
    assert toolkit(K3S)["CONTAINERD_SOCKET"] == toolkit(rke2)["CONTAINERD_SOCKET"] == K3S.socket
    assert toolkit(KIND) == {"RUNTIME_CONFIG_SOURCE": "file"}
    assert toolkit(charts.DEFAULT_RUNTIME) == {}
    assert release("istio-cni", CRIO).values["global"]["platform"] == "openshift"


@pytest.mark.parametrize("operator", [True, False])
def test_what_needs_a_gpu_stays_off_nodes_without_where_these_are_labelled(operator: bool) -> None:
    changes = {"telemetry": {"gpu_operator": operator}}
    agents = [each for each in render_stack(stack(**changes)) if (each.kind, each.name) == ("DaemonSet", "gpu-agent")]
    (pod,) = [each.document["spec"]["template"]["spec"] for each in agents]
    affinity = release("dcgm-exporter", **changes).values["affinity"]
    assert affinity == pod.get("affinity", {})
    assert ("nvidia.com/gpu.present" in json.dumps(affinity)) is operator


def test_the_scrape_interval_reaches_every_source() -> None:
    values = release("prometheus", scrape_interval_s=3).values
    assert values["prometheus"]["prometheusSpec"]["scrapeInterval"] == "3s"
    assert values["kubelet"]["serviceMonitor"]["cAdvisorInterval"] == "3s"
    environment = {
        each["name"]: each["value"] for each in release("dcgm-exporter", scrape_interval_s=3).values["extraEnv"]
    }
    assert environment["DCGM_EXPORTER_INTERVAL"] == "3000"
    for manifest in render_stack(stack(scrape_interval_s=3)):
        for endpoint in manifest.document.get("spec", {}).get("podMetricsEndpoints", ()):
            assert endpoint["interval"] == endpoint["scrapeTimeout"] == "3s"


def test_services_are_where_the_names_say() -> None:
    values = {each.name: each.values for each in chart_releases(stack())}
    assert names.PROMETHEUS.name == f"{values['prometheus']['fullnameOverride']}-prometheus"
    assert names.GRAFANA.name == values["prometheus"]["grafana"]["fullnameOverride"]
    assert names.LOKI.name == values["loki"]["fullnameOverride"]
    assert names.OTEL_COLLECTOR.name == values["otel-collector"]["fullnameOverride"]
    ports = values["otel-collector"]["ports"]
    assert ports["otlp"]["servicePort"] == names.OTEL_COLLECTOR.port
    assert ports["spans"]["servicePort"] == names.SPANS.port
    assert stack().telemetry.otlp_endpoint == names.OTEL_COLLECTOR.url


def service_of(pod: str, container: str = "ray-worker", metric: str = "container_memory_rss") -> str | None:
    """What Prometheus's relabelling makes of a cAdvisor series; None: it is dropped."""
    labels = {"__name__": metric, "pod": pod, "container": container, "interface": ""}
    for rule in release("prometheus").values["kubelet"]["serviceMonitor"]["cAdvisorMetricRelabelings"]:
        text = rule.get("separator", ";").join(labels.get(label, "") for label in rule["sourceLabels"])
        match = re.fullmatch(rule["regex"], text)
        if (rule.get("action") == "keep" and not match) or (rule.get("action") == "drop" and match):
            return None
        if "targetLabel" in rule and match:
            labels[rule["targetLabel"]] = match.expand(rule["replacement"].replace("$", "\\"))
    return labels.get("service", "")


@pytest.mark.parametrize(
    ("pod", "service"),
    [
        ("rcarena-x7k2p-ray-replicas-0-worker-lq8zt", "ray-replicas-0"),
        ("rcarena-x7k2p-ray-replicas-12-worker-lq8zt", "ray-replicas-12"),
        ("rcarena-x7k2p-head", "ray-head"),
        ("rcarena-raycluster-x7k2p-head-9d2bs", "ray-head"),
        ("nginx-proxy-6d5f9c7b8-m2x4c", "nginx-proxy"),
        ("prometheus-prometheus-prometheus-0", ""),
    ],
)
def test_series_of_containers_get_their_service(pod: str, service: str) -> None:
    assert service_of(pod) == service


@pytest.mark.parametrize(
    ("container", "metric", "kept"),
    [
        ("ray-worker", "container_cpu_usage_seconds_total", True),
        ("", "container_cpu_usage_seconds_total", False),
        ("POD", "container_memory_working_set_bytes", False),
        ("", "container_network_receive_bytes_total", True),
        ("ray-worker", "container_cpu_cfs_throttled_seconds_total", True),
        ("ray-worker", "container_tasks_state", False),
    ],
)
def test_no_container_is_counted_twice(container: str, metric: str, kept: bool) -> None:
    assert (service_of("rcarena-x7k2p-head", container, metric) is not None) == kept


def test_dcgm_exports_what_power_faults_show_in() -> None:
    counters = [
        line for line in release("dcgm-exporter").values["customMetrics"].splitlines() if not line.startswith("#")
    ]
    fields = [[part.strip() for part in line.split(",", 2)] for line in counters]
    assert all(len(each) == 3 and each[1] in ("gauge", "counter") for each in fields)
    found = [each[0] for each in fields]
    assert len(found) == len(set(found))
    assert set(found) >= NEEDED_COUNTERS


def test_logs_are_read_where_ray_writes_them() -> None:
    content = release("alloy").values["alloy"]["configMap"]["content"]
    assert content.count("{") == content.count("}")
    assert f'url = "{names.LOKI.url}/loki/api/v1/push"' in content
    (ray_path,) = re.findall(r'"(/var/lib/kubelet/pods/[^"]+)"', content)
    (service,) = [manifest.document for manifest in render_stack(stack()) if manifest.kind == "RayService"]
    pod = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    (volume,) = [volume["name"] for volume in pod["volumes"] if f"/{volume['name']}/" in ray_path]
    (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == volume]
    assert mount["mountPath"] == "/tmp/ray"


@pytest.mark.parametrize(
    "file", sorted((Path(charts.__file__).parent / "dashboards").glob("*.json")), ids=lambda f: f.stem
)
def test_dashboards_ask_for_series_that_are_scraped(file: Path) -> None:
    dashboard = json.loads(file.read_text())
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(identifiers) == len(set(identifiers))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert re.search(r"\b(ray_serve|ray_vllm|container|istio|DCGM_FI)_", target["expr"]), target["expr"]
            assert target["expr"].count("(") == target["expr"].count(")")


@pytest.mark.cluster
@pytest.mark.skipif(shutil.which("helm") is None, reason="needs helm, and its way to the chart repositories")
@pytest.mark.parametrize(
    "name", [entry["name"] for entry in yaml.safe_load(charts.CHARTS_FILE.read_text())["releases"]]
)
def test_helm_renders_the_chart_with_our_values(name: str, tmp_path: Path) -> None:
    found = release(name, **EVERYTHING)
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(found.values))
    command = ["helm", "template", found.name, found.chart, "--repo", found.repo, "--version", found.version]
    command += ["--namespace", found.namespace, "--values", str(values), "--include-crds"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    documents = [document for document in yaml.safe_load_all(result.stdout) if document]
    have = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for check in found.readiness:  # what operators make later is not among them
        if check.kind == "Deployment":
            assert (check.kind, check.name) in have
