"""Finds the CRDs that a stack needs and the cluster lacks."""

from __future__ import annotations

from tasks.deploy.kubernetes.charts import Prerequisite, chart_releases, prerequisites
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.kube.client import Cluster
from tasks.kube.errors import NotFoundError


def missing_prerequisites(cluster: Cluster, params: KubernetesDeployParams) -> list[Prerequisite]:
    """Return the missing CRDs that no chart installs. Raises ClusterError."""
    return [each for each in prerequisites(params) if not is_served(cluster, each.crd)]


def missing_crds(cluster: Cluster, params: KubernetesDeployParams) -> list[str]:
    """Return the missing CRDs of the charts, even with ``telemetry.install`` off. Raises ClusterError."""
    telemetry = params.telemetry.model_copy(update={"install": True})
    releases = chart_releases(params.model_copy(update={"telemetry": telemetry}))
    return [crd for release in releases for crd in release.crds if not is_served(cluster, crd)]


def is_served(cluster: Cluster, name: str) -> bool:
    """Return whether the API serves the CRD ``name``, by discovery: few accounts may read CRDs themselves."""
    plural, _, group = name.partition(".")
    try:
        return plural in cluster.plurals(group)
    except NotFoundError:
        return False
