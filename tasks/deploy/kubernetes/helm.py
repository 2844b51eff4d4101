"""Installs third-party Helm charts that are missing or differ in version or values."""

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
"""Charts belong to the whole cluster: their installer holds a lease in this namespace."""
PENDING = ("pending-install", "pending-upgrade", "pending-rollback")


def install_charts(cluster: Cluster, params: KubernetesDeployParams, owner: str, progress: Progress) -> None:
    """Install the Helm releases that are missing or differ, one after the other. Raises DeployError and ClusterError.

    A pod of the cluster only checks for their CRDs: its account may not install charts.
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
    _acquire_charts_lease(cluster, owner, params.start_timeout_s, progress)
    try:
        helm = Helm(cluster.address, releases)  # it remembers what it listed before the wait
        missing = [release for release in missing if not helm.is_installed(release)]
        with lease.renewing(cluster, owner, *charts_lease):
            for number, release in enumerate(missing, start=1):
                what = f"{release.chart} {release.version} ({release.namespace})"
                progress(f"stack: chart {number}/{len(missing)}: {what}")
                _label_namespace(cluster, release)
                for crd in helm.crds(release):  # helm installs CRDs with a new release and never updates them
                    cluster.apply(crd)
                helm.install(release, params.start_timeout_s)
                _await_readiness(cluster, release, params.start_timeout_s)
    finally:
        lease.release(cluster, owner, *charts_lease)


def _acquire_charts_lease(cluster: Cluster, owner: str, timeout_s: float, progress: Progress) -> None:
    """Wait until no other stack is installing charts. Raises DeployError."""
    deadline = time.monotonic() + timeout_s
    told = False
    while True:
        try:
            lease.acquire(cluster, owner, lease.CHARTS_LEASE, CHARTS_LEASE_NAMESPACE)
            return
        except lease.HeldError as error:
            if time.monotonic() >= deadline:
                raise
            if not told:
                progress(f"stack: {error}")
            told = True
        time.sleep(POLL_S)


def _await_readiness(cluster: Cluster, release: ChartRelease, timeout_s: float) -> None:
    """Wait for the release's readiness checks: helm does not wait for objects that an operator creates. Raises
    DeployError."""
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
    """The helm CLI for one cluster. Every method raises DeployError with helm's error message."""

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
        """Return whether the release is deployed in this version with these values."""
        found = self._find(release)
        if found is None or found["status"] != "deployed" or not _is_chart(found["chart"], release):
            return False
        output = self._run(["get", "values", release.name, "--namespace", release.namespace, "--output", "json"])
        return (json.loads(output or "null") or {}) == release.values

    def install(self, release: ChartRelease, timeout_s: float) -> None:
        """Unlock the release if a helm was killed on it, install or upgrade it, and wait until helm calls it ready."""
        self._unlock(release)
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
        """Return the CRDs in the chart's folder ``crds``, without those in its templates."""
        output = self._run(["show", "crds", *_source(release), "--version", release.version], EXTRA_TIMEOUT_S)
        return [document for document in yaml.load_all(output, SAFE_LOADER) if isinstance(document, dict)]

    def uninstall(self, release: ChartRelease, timeout_s: float) -> bool:
        """Uninstall the release; return False when it is not installed."""
        if self._find(release) is None:
            return False
        self._listed = None
        command = ["uninstall", release.name, "--namespace", release.namespace, "--wait"]
        self._run([*command, "--timeout", f"{int(timeout_s)}s"], timeout_s + EXTRA_TIMEOUT_S)
        return True

    def _unlock(self, release: ChartRelease) -> None:
        """Remove a new release, or roll back an upgrade, that a killed helm left locked."""
        found = self._find(release)
        if found is None or found["status"] not in PENDING:
            return
        act = "uninstall" if found["status"] == "pending-install" else "rollback"
        self._run([act, release.name, "--namespace", release.namespace, "--wait"], EXTRA_TIMEOUT_S * 5)

    def _find(self, release: ChartRelease) -> dict[str, Any] | None:
        """Return the release's entry in ``helm list``, run once for all with filters that Helm 3 and 4 know."""
        if self._listed is None:
            states = ["--deployed", "--failed", "--pending"]
            wanted = f"^({'|'.join(each.name for each in self._releases)})$"
            output = self._run(["list", "--all-namespaces", *states, "--filter", wanted, "--output", "json"])
            self._listed = {(each["namespace"], each["name"]): each for each in json.loads(output or "[]")}
        return self._listed.get((release.namespace, release.name))

    def _run(self, arguments: list[str], timeout_s: float = READ_TIMEOUT_S) -> str:
        """Run helm and return its standard output. The process ends with its parent where ``setpriv`` exists."""
        wrapper = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        where = [] if self._cluster.context is None else ["--kube-context", self._cluster.context]
        environment = dict(os.environ)
        if self._cluster.kubeconfig is not None:
            environment["KUBECONFIG"] = self._cluster.kubeconfig
        what = f"helm {arguments[0]} {next((each for each in arguments[1:] if not each.startswith('-')), '')}".strip()
        try:
            done = subprocess.run(
                [*wrapper, "helm", *arguments, *where],
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
    """Return whether ``shown``, from ``helm list``, is this chart in this version, with or without a leading v."""
    chart, _, version = shown.partition(f"{release.chart.rpartition('/')[2]}-")
    return not chart and version.removeprefix("v") == release.version.removeprefix("v")
