"""What ``rcarena deploy ...`` and ``rcarena preflight`` do for the backend ``kubernetes``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tasks.commands.errors import fail
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.errors import EXIT_FAILED, EXIT_USAGE
from tasks.params import Params, load_params
from tasks.validation import ParamsError, suggest
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.deploy.kubernetes.preflight import Check
    from tasks.deploy.kubernetes.runtime import KubernetesRuntime
    from tasks.kube.client import Cluster

PATIENCE_S = 10.0
"""A person waits: a cluster that does not answer for so long is unreachable."""
SERIES_WINDOW_S = 600


def deploy_params(path: Path, command: str) -> KubernetesDeployParams:
    """The section ``deploy``, checked. Raises ParamsError when it is for another backend or cannot be rendered."""
    from tasks.deploy.kubernetes.validate import validate_deploy_params

    deploy = load_params(path).deploy
    if not isinstance(deploy, KubernetesDeployParams):
        raise ParamsError([f"{path}: deploy.backend: `{command}` needs kubernetes (got {deploy.backend})"])
    problems = validate_deploy_params(deploy)
    if problems:
        raise ParamsError(f"{path}: {problem}" for problem in problems)
    return deploy


@contextlib.contextmanager
def reached(deploy: KubernetesDeployParams) -> Iterator[Cluster]:
    """The cluster; one that is missing, unreachable or refuses the credentials ends the command with status 2."""
    from tasks.kube.address import find_cluster
    from tasks.kube.client import Cluster
    from tasks.kube.errors import ClusterError, ExpiredError, NoClusterError, UnreachableError

    try:
        with Cluster(find_cluster(deploy.context, deploy.namespace), deadline_s=PATIENCE_S) as cluster:
            yield cluster
    except (NoClusterError, UnreachableError, ExpiredError) as error:
        fail(error, EXIT_USAGE)
    except ClusterError as error:
        fail(error, EXIT_FAILED)


def render(deploy: KubernetesDeployParams, directory: Path) -> None:
    from tasks.deploy.kubernetes.render import write_manifests

    for file in write_manifests(deploy, directory):
        typer.echo(str(file))


def plan(deploy: KubernetesDeployParams, as_json: bool) -> None:
    from tasks.deploy.kubernetes import plan as planning
    from tasks.deploy.kubernetes.render import render_stack

    with reached(deploy) as cluster:
        charts = _chart_lines(deploy, cluster)
        changes = planning.plan(cluster, render_stack(deploy))
    if as_json:
        typer.echo(json.dumps({"charts": charts, "objects": [change.to_json() for change in changes]}, indent=1))
        return
    typer.echo("\n".join([*charts, planning.text(changes)]))


def charts(check: bool, as_json: bool) -> None:
    """The pinned charts; with ``check`` what their repositories say of them."""
    from dataclasses import asdict

    from tasks.deploy.kubernetes.chart_index import check_charts
    from tasks.deploy.kubernetes.charts import pinned_charts

    pinned = pinned_charts()
    findings = check_charts(pinned) if check else ()
    if as_json:
        rows = [asdict(each) for each in pinned]
        for row, each in zip(rows, findings, strict=False):
            row |= {"found": each.found, "newest": each.newest, "problem": each.problem}
        typer.echo(json.dumps(rows, indent=1))
    elif check:
        typer.echo("\n".join(map(str, findings)))
    else:
        for chart in pinned:
            typer.echo(f"{chart.name:<17} {chart.chart} {chart.version}, {chart.repo} (seen: {chart.seen})")
    if any(not each.found for each in findings):
        raise typer.Exit(EXIT_FAILED)


def preflight(params: Params, deploy: KubernetesDeployParams, place: Workspace, as_json: bool) -> None:
    from tasks.deploy.kubernetes import preflight as checking

    with reached(deploy) as cluster:
        checks = checking.preflight(cluster, deploy, _series_check(params, place))
    if as_json:
        typer.echo(json.dumps([check.to_json() for check in checks], indent=1))
    else:
        typer.echo(_table(checks))
    if any(check.verdict == "failed" for check in checks):
        raise typer.Exit(EXIT_FAILED)


def status(deploy: KubernetesDeployParams, place: Workspace, as_json: bool) -> None:
    from dataclasses import asdict

    from tasks.deploy.kubernetes.lifecycle import status as look

    found = look(deploy, place.stack)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
    else:
        typer.echo(f"{found.state}: {found.detail}")
        for service in found.services:
            typer.echo(
                f"  {service.name:<18} {service.role:<8} {service.ready} of {service.pods} pods ready  "
                f"{service.restarts:>2} restarts  {service.nodes}"
            )
    if found.state != "ready":
        raise typer.Exit(EXIT_FAILED)


def down(params: Params, place: Workspace, say: Callable[[str], None], *, charts: bool, volumes: bool) -> bool:
    """Undo faults, then remove the stack, whatever the undo says."""
    from tasks.deploy.kubernetes import teardown
    from tasks.inject.recover import recover

    assert isinstance(params.deploy, KubernetesDeployParams)
    try:
        recover(place)
    finally:
        found = teardown.down(params.deploy, place.stack, say, charts=charts, volumes=volumes)
    return found


def execute(runtime: KubernetesRuntime, service: str, command: list[str]) -> None:
    """Become ``kubectl exec`` in the first pod of ``service``."""
    from tasks.deploy.errors import DeployError

    names = [each.name for each in runtime.services]
    if service not in names:
        raise ParamsError([f"unknown service '{service}'; {suggest(service, names)}"])
    if shutil.which("kubectl") is None:
        raise DeployError("kubectl is missing: it runs commands in pods")
    found = runtime.service(service)
    where = [] if runtime.cluster.context is None else ["--context", runtime.cluster.context]
    if runtime.cluster.kubeconfig is not None:
        os.environ["KUBECONFIG"] = runtime.cluster.kubeconfig
    prefix = ["kubectl", *where, "--namespace", runtime.namespace, "exec", found.pods[0].name]
    os.execvp(prefix[0], [*prefix, "--container", found.container, "--", *command])  # noqa: S606 (the user's own command)


def _series_check(params: Params, place: Workspace) -> Callable[[], list[str]] | None:
    """Asks the Prometheus of the stack that is up; None when there is none."""
    from tasks.deploy.kubernetes.runtime import read_runtime

    if read_runtime(place.stack) is None:
        return None

    def missing() -> list[str]:
        from datetime import UTC, datetime, timedelta

        from tasks.backends import backend_of
        from tasks.deploy.errors import DeployError, StackNotRunningError
        from tasks.export.base import ExportError
        from tasks.export.exporter import check_series
        from tasks.export.questions.metrics import explain_missing

        now = datetime.now(UTC)
        try:
            live = backend_of(params, place).live()
            live.enter()
            sources = live.sources()
            window = (now - timedelta(seconds=SERIES_WINDOW_S), now)
            absent = check_series(sources, window, params.export, live.describe())
        except (DeployError, ExportError, StackNotRunningError) as error:
            raise ValueError(str(error)) from error
        return explain_missing(absent, "kubernetes", sources.gpus)

    return missing


def _chart_lines(deploy: KubernetesDeployParams, cluster: Cluster) -> list[str]:
    """What ``deploy up`` would do to the charts."""
    from tasks.deploy.errors import DeployError
    from tasks.deploy.kubernetes.charts import chart_releases
    from tasks.deploy.kubernetes.helm import Helm
    from tasks.deploy.kubernetes.nodes import container_runtime

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
