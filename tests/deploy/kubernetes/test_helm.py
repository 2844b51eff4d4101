"""Charts by a stand-in for the helm CLI that keeps releases in a file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.deploy.errors import DeployError
from tasks.deploy.kubernetes import chart_index, lease
from tasks.deploy.kubernetes.charts import ChartRelease, chart_releases, pinned_charts
from tasks.deploy.kubernetes.helm import Helm, install_charts
from tasks.kube.client import Cluster
from tests.deploy.kubernetes.conftest import MakeParams
from tests.kubernetes.cluster import EmulatedCluster

HELM = f"""#!{sys.executable}
import json, pathlib, re, sys
here = pathlib.Path(__file__).parent
state = json.loads((here / "state.json").read_text()) if (here / "state.json").exists() else {{}}
arguments = sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(" ".join(arguments) + "\\n")
if (here / "refuse").exists():
    sys.exit("Error: INSTALLATION FAILED: timed out waiting for the condition")
def option(name):
    return arguments[arguments.index(name) + 1]
command = arguments[0]
namespace = option("--namespace") if "--namespace" in arguments else ""
if command == "list":
    found = [dict(zip(("namespace", "name"), key.split("/")), **each) for key, each in state.items()]
    print(json.dumps([each for each in found if re.search(option("--filter"), each["name"])]))
elif command == "show":
    crds = here / f"crds-{{arguments[2].rpartition('/')[2]}}.yaml"
    print(crds.read_text() if crds.exists() else "")
elif command == "get":
    print(json.dumps(state[f"{{namespace}}/{{arguments[2]}}"]["values"]))
elif command == "upgrade":
    import yaml
    values = yaml.safe_load(pathlib.Path(option("--values")).read_text())
    chart = arguments[3].rpartition("/")[2]
    state[f"{{namespace}}/{{arguments[2]}}"] = {{
        "status": "deployed", "chart": f"{{chart}}-{{option('--version')}}", "values": values
    }}
elif command == "uninstall":
    del state[f"{{namespace}}/{{arguments[1]}}"]
(here / "state.json").write_text(json.dumps(state))
"""


@pytest.fixture
def helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "helm"
    program.parent.mkdir()
    program.write_text(HELM, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program.parent


@pytest.fixture(autouse=True)
def repositories(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every repository has every pinned chart in its version; tests may change the versions."""
    versions = {each.chart: each.version for each in pinned_charts()}

    def read(repo: str) -> str:
        return json.dumps({"entries": {chart: [{"version": version}] for chart, version in versions.items()}})

    monkeypatch.setattr(chart_index, "read_index", read)
    return versions


def release(**changes: Any) -> ChartRelease:
    fields: dict[str, Any] = {
        "name": "loki",
        "repo": "https://example.org/charts",
        "chart": "loki",
        "version": "12.0.1",
        "namespace": "telemetry",
        "values": {"replicas": 1},
        "readiness": (),
        "seen": "here",
    }
    return ChartRelease(**{**fields, **changes})


CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "lokis.example.org"},
    "spec": {
        "group": "example.org",
        "scope": "Namespaced",
        "names": {"kind": "Loki", "plural": "lokis"},
        "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        ],
    },
}


def make_ready(cluster: EmulatedCluster, releases: list[ChartRelease]) -> None:
    """What the operators of these charts would make."""
    counts = {"replicas": 1, "availableReplicas": 1, "numberAvailable": 1, "desiredNumberScheduled": 1}
    for each in releases:
        for check in each.readiness:
            cluster.put(
                {
                    "apiVersion": "apps/v1",
                    "kind": check.kind,
                    "metadata": {"name": check.name, "namespace": each.namespace, "generation": 1},
                    "spec": {
                        "replicas": 1,
                        "template": {"metadata": {}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
                    },
                    "status": {"observedGeneration": 1, **counts},
                }
            )


def commands(helm: Path) -> list[str]:
    return [line.split()[0] for line in (helm / "calls").read_text().splitlines()]


def test_installs_what_is_missing_or_differs(helm: Path, gpu_cluster: EmulatedCluster, tmp_path: Path) -> None:
    cli = Helm(gpu_cluster.address(tmp_path), (release(),))
    assert not cli.is_installed(release())
    cli.install(release(), 60)
    assert cli.is_installed(release())
    assert not cli.is_installed(release(version="12.0.2"))
    assert not cli.is_installed(release(values={"replicas": 2}))
    calls = (helm / "calls").read_text()
    assert (
        "upgrade --install loki loki --repo https://example.org/charts --version 12.0.1 --namespace telemetry" in calls
    )
    assert "--reset-values --wait --timeout 60s --kube-context emulated" in calls


def test_a_version_with_a_v_is_recognised(helm: Path, gpu_cluster: EmulatedCluster, tmp_path: Path) -> None:
    cli = Helm(gpu_cluster.address(tmp_path), (release(),))
    cli.install(release(version="25.3.0"), 60)
    assert cli.is_installed(release(version="v25.3.0"))


def test_a_chart_of_an_oci_registry(helm: Path, gpu_cluster: EmulatedCluster, tmp_path: Path) -> None:
    Helm(gpu_cluster.address(tmp_path), ()).install(release(repo="oci://example.org/charts"), 60)
    assert "upgrade --install loki oci://example.org/charts/loki --version" in (helm / "calls").read_text()


@pytest.mark.parametrize(("status", "act"), [("pending-install", "uninstall"), ("pending-upgrade", "rollback")])
def test_a_release_that_a_killed_helm_left_is_put_right(
    helm: Path, gpu_cluster: EmulatedCluster, tmp_path: Path, status: str, act: str
) -> None:
    state = {"telemetry/loki": {"status": status, "chart": "loki-12.0.1", "values": {"replicas": 1}}}
    (helm / "state.json").write_text(json.dumps(state))
    cli = Helm(gpu_cluster.address(tmp_path), (release(),))
    assert not cli.is_installed(release())
    cli.install(release(), 60)
    assert act in commands(helm)
    assert cli.is_installed(release())


def test_all_charts_of_a_stack_are_installed_once(
    helm: Path,
    gpu_cluster: EmulatedCluster,
    make_params: MakeParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = make_params(telemetry={"install": True})
    some = [each for each in chart_releases(params) if each.name in ("loki", "istiod", "chaos-mesh")]
    monkeypatch.setattr("tasks.deploy.kubernetes.helm.chart_releases", lambda params, runtime: some)
    make_ready(gpu_cluster, some)
    (helm / "crds-loki.yaml").write_text(json.dumps(CRD))
    said: list[str] = []
    with Cluster(gpu_cluster.address(tmp_path)) as cluster:
        install_charts(cluster, params, "me", said.append)
        assert len(said) == len(some) == 3
        assert gpu_cluster.get(CRD["apiVersion"], CRD["kind"], CRD["metadata"]["name"]) is not None
        namespace = gpu_cluster.get("v1", "Namespace", "chaos-mesh")
        assert namespace is not None
        assert namespace["metadata"]["labels"]["istio.io/dataplane-mode"] == "none"
        again: list[str] = []
        install_charts(cluster, params, "me", again.append)
        assert again == []
        assert commands(helm).count("upgrade") == len(said)
        lease.acquire(cluster, "another", lease.CHARTS_LEASE, "default")
        (helm / "state.json").unlink()
        impatient = params.model_copy(update={"start_timeout_s": 0.1})
        with pytest.raises(DeployError, match="is installing charts on this cluster"):
            install_charts(cluster, impatient, "me", again.append)
        lease.release(cluster, "another", lease.CHARTS_LEASE, "default")


def test_two_stacks_that_come_up_at_once_install_charts_one_after_the_other(
    helm: Path,
    gpu_cluster: EmulatedCluster,
    make_params: MakeParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = make_params(telemetry={"install": True})
    some = [each for each in chart_releases(params) if each.name == "loki"]
    monkeypatch.setattr("tasks.deploy.kubernetes.helm.chart_releases", lambda params, runtime: some)
    monkeypatch.setattr("tasks.deploy.kubernetes.helm.POLL_S", 0.05)
    make_ready(gpu_cluster, some)
    said: list[str] = []

    def say(line: str) -> None:
        """Let the other stack install the charts while this one waits."""
        said.append(line)
        if "is installing charts" in line:
            lease.release(cluster, "another", lease.CHARTS_LEASE, "default")
            install_charts(cluster, params, "another", said.append)

    with Cluster(gpu_cluster.address(tmp_path)) as cluster:
        lease.acquire(cluster, "another", lease.CHARTS_LEASE, "default")
        install_charts(cluster, params, "me", say)
    assert commands(helm).count("upgrade") == 1


def test_what_helm_says_is_the_error(helm: Path, gpu_cluster: EmulatedCluster, tmp_path: Path) -> None:
    (helm / "refuse").touch()
    with pytest.raises(DeployError, match="timed out waiting for the condition"):
        Helm(gpu_cluster.address(tmp_path), ()).install(release(), 60)


def test_a_missing_helm_names_the_charts_and_the_cure(
    gpu_cluster: EmulatedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DeployError, match=r"helm is missing: it installs loki\.(.|\n)*telemetry\.install: false"):
        Helm(gpu_cluster.address(tmp_path), (release(),))


def test_without_installing_the_cluster_must_have_the_kinds(
    gpu_cluster: EmulatedCluster, make_params: MakeParams, tmp_path: Path
) -> None:
    gpu_cluster.uninstall("chaos-mesh.org")
    with (
        Cluster(gpu_cluster.address(tmp_path)) as cluster,
        pytest.raises(DeployError, match=r"lacks stresschaos\.chaos-mesh\.org"),
    ):
        install_charts(cluster, make_params(), "me", lambda line: None)


def test_nothing_is_installed_when_one_chart_does_not_exist(
    helm: Path, gpu_cluster: EmulatedCluster, make_params: MakeParams, repositories: dict[str, str], tmp_path: Path
) -> None:
    repositories["loki"] = "99.0.0"
    said: list[str] = []
    with Cluster(gpu_cluster.address(tmp_path)) as cluster:
        with pytest.raises(DeployError, match=r"nothing was installed.*loki .*newest is 99\.0\.0"):
            install_charts(cluster, make_params(telemetry={"install": True}), "me", said.append)
        assert "upgrade" not in commands(helm)
        assert said == []


def test_what_a_release_is_for_is_waited_for(
    helm: Path,
    gpu_cluster: EmulatedCluster,
    make_params: MakeParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Helm is content as soon as its own objects are: what an operator makes of them comes later, or never."""
    monkeypatch.setattr("tasks.deploy.kubernetes.helm.POLL_S", 0.05)
    params = make_params(telemetry={"install": True}, start_timeout_s=1)
    some = [each for each in chart_releases(params) if each.name == "loki"]
    monkeypatch.setattr("tasks.deploy.kubernetes.helm.chart_releases", lambda params, runtime: some)
    with (
        Cluster(gpu_cluster.address(tmp_path)) as cluster,
        pytest.raises(DeployError, match="chart loki: StatefulSet loki is not there after 1 s"),
    ):
        install_charts(cluster, params, "me", lambda line: None)
    assert "--reset-values" in (helm / "calls").read_text()
