"""Which of the kinds that a stack needs the cluster has not got."""

from __future__ import annotations

from tasks.deploy.kubernetes.charts import Prerequisite, chart_releases, prerequisites
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.kube.client import Cluster
from tasks.kube.errors import NotFoundError


def missing_prerequisites(cluster: Cluster, params: KubernetesDeployParams) -> list[Prerequisite]:
    """CRDs that no chart brings. Raises ClusterError."""
    return [each for each in prerequisites(params) if not is_served(cluster, each.crd)]


def missing_crds(cluster: Cluster, params: KubernetesDeployParams) -> list[str]:
    """CRDs that the charts bring, whether or not we are to install them. Raises ClusterError."""
    telemetry = params.telemetry.model_copy(update={"install": True})
    releases = chart_releases(params.model_copy(update={"telemetry": telemetry}))
    return [crd for release in releases for crd in release.crds if not is_served(cluster, crd)]


def is_served(cluster: Cluster, name: str) -> bool:
    """Whether the API has it. By discovery, which everybody may ask; CRDs themselves are for few to read."""
    plural, _, group = name.partition(".")
    try:
        return plural in cluster.plurals(group)
    except NotFoundError:
        return False
