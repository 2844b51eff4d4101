"""Helm charts of third parties: ``helm upgrade --install`` for what is not there in the wanted version and values."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tasks.deploy.errors import DeployError
from tasks.deploy.kubernetes import lease
from tasks.deploy.kubernetes.chart_index import check_charts
from tasks.deploy.kubernetes.charts import SAFE_LOADER, ChartRelease, chart_releases
from tasks.deploy.kubernetes.crds import missing_crds, missing_prerequisites
from tasks.deploy.kubernetes.nodes import container_runtime
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.waiting import available
from tasks.kube.address import ClusterAddress
from tasks.kube.client import Cluster

Progress = Callable[[str], None]
READ_TIMEOUT_S = 60.0
EXTRA_TIMEOUT_S = 60.0
POLL_S = 2.0
CHARTS_LEASE_NAMESPACE = "default"
"""Charts belong to the whole cluster: whoever installs them holds a lease there."""
PENDING = ("pending-install", "pending-upgrade", "pending-rollback")


def install_charts(cluster: Cluster, params: KubernetesDeployParams, owner: str, progress: Progress) -> None:
    """Helm releases that are missing or differ, one after the other. Raises DeployError and ClusterError.

    A pod of the cluster installs none: its account may not, and they are there since the stack was first made.
    """
    for each in missing_prerequisites(cluster, params):
        raise DeployError(
            f"the cluster lacks the CRD {each.crd}, which no chart brings: "
            f"run `kubectl apply --server-side --filename {each.manifest}`"
        )
    if not params.telemetry.install or cluster.address.in_cluster:
        missing_kinds = missing_crds(cluster, params)
        if missing_kinds:
            raise DeployError(
                f"the cluster lacks {', '.join(missing_kinds)}: run `rcarena deploy up` from outside the cluster with "
                "deploy.telemetry.install: true, or install what brings them"
            )
        return
    releases = chart_releases(params, container_runtime(cluster))
    helm = Helm(cluster.address, releases)
    missing = [release for release in releases if not helm.is_installed(release)]
    if not missing:
        return
    if absent := [str(finding) for finding in check_charts(missing) if finding.found is False]:
        raise DeployError(f"nothing was installed, for these charts do not exist: {'; '.join(absent)}")
    charts_lease = (lease.CHARTS_LEASE, CHARTS_LEASE_NAMESPACE)
    lease.acquire(cluster, owner, *charts_lease)
    try:
        with lease.renewing(cluster, owner, *charts_lease):
            for number, release in enumerate(missing, start=1):
                what = f"{release.chart} {release.version} ({release.namespace})"
                progress(f"stack: chart {number}/{len(missing)}: {what}")
                _label_namespace(cluster, release)
                for crd in helm.crds(release):  # helm installs those of a new release and never renews them
                    cluster.apply(crd)
                helm.install(release, params.start_timeout_s)
                _await_readiness(cluster, release, params.start_timeout_s)
    finally:
        lease.release(cluster, owner, *charts_lease)


def _await_readiness(cluster: Cluster, release: ChartRelease, timeout_s: float) -> None:
    """Until what the release is for is available: helm waits for its own objects, not for those that an operator makes
    of them. Raises DeployError."""
    deadline = time.monotonic() + timeout_s
    for check in release.readiness:
        while True:
            live = cluster.find("apps/v1", check.kind, check.name, namespace=release.namespace)
            ready, wanted = (0, 1) if live is None else available(live)
            if ready >= wanted:
                break
            if time.monotonic() > deadline:
                state = "is not there" if live is None else f"has {ready} of {wanted} pods"
                raise DeployError(
                    f"chart {release.chart}: {check.kind} {check.name} {state} after {timeout_s:g} s: "
                    f"see `kubectl --namespace {release.namespace} describe pods`"
                )
            time.sleep(POLL_S)


def _label_namespace(cluster: Cluster, release: ChartRelease) -> None:
    if release.namespace_labels:
        metadata = {"name": release.namespace, "labels": dict(release.namespace_labels)}
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


class Helm:
    """The CLI, for one cluster. Every method raises DeployError with what helm said."""

    def __init__(self, cluster: ClusterAddress, releases: Sequence[ChartRelease]) -> None:
        if shutil.which("helm") is None:
            charts = ", ".join(release.chart for release in releases)
            raise DeployError(
                f"helm is missing: it installs {charts}. Install it (https://helm.sh/docs/intro/install), or install "
                "the charts yourself (`rcarena deploy render` writes charts/install.sh) and set "
                "deploy.telemetry.install: false"
            )
        self._cluster = cluster
        self._releases = tuple(releases)
        self._listed: dict[tuple[str, str], dict[str, Any]] | None = None

    def is_installed(self, release: ChartRelease) -> bool:
        """Whether the release is deployed in this version with these values."""
        found = self._release(release)
        if found is None or found["status"] != "deployed" or not _is_chart(found["chart"], release):
            return False
        said = self._run(["get", "values", release.name, "--namespace", release.namespace, "--output", "json"])
        return (json.loads(said or "null") or {}) == release.values

    def install(self, release: ChartRelease, timeout_s: float) -> None:
        """Install or upgrade, and wait until helm holds it for ready. One that was cut short is put right before."""
        self._put_right(release)
        self._listed = None
        with tempfile.TemporaryDirectory(prefix="rcarena-helm-") as directory:
            values = Path(directory, "values.yaml")
            values.write_text(yaml.safe_dump(release.values, sort_keys=False), encoding="utf-8")
            self._run(
                [
                    *("upgrade", "--install", release.name, *_source(release), "--version", release.version),
                    *(
                        "--namespace",
                        release.namespace,
                        "--create-namespace",
                        "--values",
                        str(values),
                        "--reset-values",
                    ),
                    *("--wait", "--timeout", f"{int(timeout_s)}s"),
                ],
                timeout_s + EXTRA_TIMEOUT_S,
            )

    def crds(self, release: ChartRelease) -> list[dict[str, Any]]:
        """The custom resource definitions in the chart's folder ``crds``; those in its templates are not among them."""
        said = self._run(["show", "crds", *_source(release), "--version", release.version], EXTRA_TIMEOUT_S)
        return [document for document in yaml.load_all(said, SAFE_LOADER) if isinstance(document, dict)]

    def uninstall(self, release: ChartRelease, timeout_s: float) -> bool:
        """False when it was not there."""
        if self._release(release) is None:
            return False
        self._listed = None
        command = ["uninstall", release.name, "--namespace", release.namespace, "--wait"]
        self._run([*command, "--timeout", f"{int(timeout_s)}s"], timeout_s + EXTRA_TIMEOUT_S)
        return True

    def _put_right(self, release: ChartRelease) -> None:
        """A helm that was killed leaves its release locked: what was new is removed, an upgrade is rolled back."""
        found = self._release(release)
        if found is None or found["status"] not in PENDING:
            return
        act = "uninstall" if found["status"] == "pending-install" else "rollback"
        self._run([act, release.name, "--namespace", release.namespace, "--wait"], EXTRA_TIMEOUT_S * 5)

    def _release(self, release: ChartRelease) -> dict[str, Any] | None:
        """As one ``helm list`` for all releases shows it; the state filters are those that Helm 3 and 4 both have."""
        if self._listed is None:
            states = ["--deployed", "--failed", "--pending"]
            wanted = f"^({'|'.join(each.name for each in self._releases)})$"
            said = self._run(["list", "--all-namespaces", *states, "--filter", wanted, "--output", "json"])
            self._listed = {(each["namespace"], each["name"]): each for each in json.loads(said or "[]")}
        return self._listed.get((release.namespace, release.name))

    def _run(self, arguments: list[str], timeout_s: float = READ_TIMEOUT_S) -> str:
        """Its standard output. The process ends with its parent where the system can do that."""
        tied = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        where = [] if self._cluster.context is None else ["--kube-context", self._cluster.context]
        environment = dict(os.environ)
        if self._cluster.kubeconfig is not None:
            environment["KUBECONFIG"] = self._cluster.kubeconfig
        what = f"helm {arguments[0]} {next((each for each in arguments[1:] if not each.startswith('-')), '')}".strip()
        try:
            done = subprocess.run(
                [*tied, "helm", *arguments, *where],
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise DeployError(f"{what}: no end within {timeout_s:g} s") from error
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise DeployError(f"{what}: {lines[-1].removeprefix('Error: ')}")
        return done.stdout


def _source(release: ChartRelease) -> list[str]:
    if release.repo.startswith("oci://"):
        return [f"{release.repo.rstrip('/')}/{release.chart}"]
    return [release.chart, "--repo", release.repo]


def _is_chart(shown: str, release: ChartRelease) -> bool:
    """Whether ``helm list`` shows this chart in this version; some versions begin with a v, not everywhere."""
    chart, _, version = shown.partition(f"{release.chart.rpartition('/')[2]}-")
    return not chart and version.removeprefix("v") == release.version.removeprefix("v")
