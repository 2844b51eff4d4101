"""Output of ``rcarena deploy ...`` and ``rcarena preflight`` on a cluster."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tasks.backends.base import Answer, MissingSeries
from tasks.deploy.errors import DeployError
from tasks.deploy.kubernetes import lifecycle
from tasks.deploy.kubernetes import plan as planning
from tasks.deploy.kubernetes import preflight as checking
from tasks.deploy.kubernetes.chart_index import check_charts
from tasks.deploy.kubernetes.charts import chart_releases, pinned_charts
from tasks.deploy.kubernetes.helm import Helm
from tasks.deploy.kubernetes.nodes import container_runtime
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.preflight import Check
from tasks.deploy.kubernetes.render import render_stack
from tasks.deploy.kubernetes.runtime import KubernetesRuntime
from tasks.errors import EXIT_USAGE, ParamsError
from tasks.kube.address import find_cluster
from tasks.kube.client import Cluster
from tasks.kube.errors import ExpiredError, NoClusterError, UnreachableError
from tasks.text import suggest

DEADLINE_S = 10.0
"""A cluster that does not answer within this time counts as unreachable: a person is waiting."""


class OutOfReachError(DeployError):
    """The cluster does not exist, does not answer, or refuses the credentials: nothing was checked."""

    exit_status = EXIT_USAGE


def plan(deploy: KubernetesDeployParams) -> Answer:
    with _connect(deploy) as cluster:
        charts = _chart_lines(deploy, cluster)
        changes = planning.plan(cluster, render_stack(deploy))
    document = {"charts": charts, "objects": [change.to_json() for change in changes]}
    return Answer("\n".join([*charts, planning.text(changes)]), document)


def charts(check: bool) -> Answer:
    """Return the pinned charts; with ``check``, also whether their repositories have them."""
    pinned = pinned_charts()
    rows = [asdict(each) for each in pinned]
    if not check:
        lines = [f"{each.name:<17} {each.chart} {each.version}, {each.repo} (seen: {each.seen})" for each in pinned]
        return Answer("\n".join(lines), rows)
    findings = check_charts(pinned)
    for row, each in zip(rows, findings, strict=True):
        row |= {"found": each.found, "newest": each.newest, "problem": each.problem}
    return Answer("\n".join(map(str, findings)), rows, None if all(each.found for each in findings) else "")


def preflight(deploy: KubernetesDeployParams, missing_series: MissingSeries | None) -> Answer:
    with _connect(deploy) as cluster:
        checks = checking.preflight(cluster, deploy, missing_series)
    failed = any(check.verdict == "failed" for check in checks)
    return Answer(_table(checks), [asdict(check) for check in checks], "" if failed else None)


def status(deploy: KubernetesDeployParams, directory: Path) -> Answer:
    found = lifecycle.status(deploy, directory)
    lines = [f"{found.state}: {found.detail}"]
    lines += [
        f"  {service.name:<18} {service.role:<8} {service.ready} of {service.pods} pods ready  "
        f"{service.restarts:>2} restarts  {service.nodes}"
        for service in found.services
    ]
    return Answer("\n".join(lines), asdict(found), None if found.state == "ready" else "")


def kubectl_exec(runtime: KubernetesRuntime, service: str, command: Sequence[str]) -> list[str]:
    """Return the command line that runs ``command`` in the service's first pod. Raises ParamsError, DeployError."""
    names = [each.name for each in runtime.services]
    if service not in names:
        raise ParamsError([f"unknown service '{service}'; {suggest(service, names)}"])
    if shutil.which("kubectl") is None:
        raise DeployError("kubectl is missing: it runs commands in pods")
    found, cluster = runtime.service(service), runtime.cluster
    environment = [] if cluster.kubeconfig is None else ["env", f"KUBECONFIG={cluster.kubeconfig}"]
    where = [] if cluster.context is None else ["--context", cluster.context]
    pod = ["--namespace", runtime.namespace, "exec", found.pods[0].name, "--container", found.container]
    return [*environment, "kubectl", *where, *pod, "--", *command]


@contextlib.contextmanager
def _connect(deploy: KubernetesDeployParams) -> Iterator[Cluster]:
    """Connect to the cluster for a read-only command. Raises OutOfReachError."""
    try:
        with Cluster(find_cluster(deploy.context, deploy.namespace), deadline_s=DEADLINE_S) as cluster:
            yield cluster
    except (NoClusterError, UnreachableError, ExpiredError) as error:
        raise OutOfReachError(str(error)) from error


def _chart_lines(deploy: KubernetesDeployParams, cluster: Cluster) -> list[str]:
    """Return one line per chart that ``deploy up`` would install."""
    if not deploy.telemetry.install or cluster.address.in_cluster:
        return []
    releases = chart_releases(deploy, container_runtime(cluster))
    try:
        helm = Helm(cluster.address, releases)
        missing = [release for release in releases if not helm.is_installed(release)]
    except DeployError as error:
        return [f"? charts: {error}"]
    return [f"+ chart {release.chart} {release.version} ({release.namespace})" for release in missing]


def _table(checks: tuple[Check, ...]) -> str:
    width = max(len(check.name) for check in checks)
    lines = [f"{'':7}  {'check':<{width}}  result"]
    for check in checks:
        verdict = "FAILED" if check.verdict == "failed" else check.verdict
        lines.append(f"{verdict:<7}  {check.name:<{width}}  {check.result}")
        if check.cure:
            lines.append(f"{'':7}  {'':<{width}}  → {check.cure}")
    failed = sum(check.verdict == "failed" for check in checks)
    lines.append(f"{failed} of {len(checks)} checks failed" if failed else "this cluster can run the stack")
    return "\n".join(lines)
