"""Kinds and their REST paths. The client asks the cluster for a kind that is not in the table (discovery)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True)
class Resource:
    """A kind of one API version; ``plural`` is its name in paths and in RBAC rules."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool

    @property
    def group(self) -> str:
        """Empty for the core group."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """``namespace`` None: across all namespaces (lists), or a kind that has none."""
        parts = ["apis" if "/" in self.api_version else "api", *self.api_version.split("/")]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(quote(part, safe=".") for part in parts)


def _kinds(api_version: str, namespaced: bool, **plurals: str) -> dict[tuple[str, str], Resource]:
    return {(api_version, kind): Resource(api_version, kind, plural, namespaced) for kind, plural in plurals.items()}


RESOURCES: dict[tuple[str, str], Resource] = {
    **_kinds(
        "v1",
        True,
        Pod="pods",
        Service="services",
        ConfigMap="configmaps",
        Secret="secrets",  # noqa: S106 (a kind)
        ServiceAccount="serviceaccounts",
        PersistentVolumeClaim="persistentvolumeclaims",
        Event="events",
        Endpoints="endpoints",
    ),
    **_kinds("v1", False, Namespace="namespaces", Node="nodes"),
    **_kinds("apps/v1", True, Deployment="deployments", DaemonSet="daemonsets", StatefulSet="statefulsets"),
    **_kinds("batch/v1", True, Job="jobs"),
    **_kinds("coordination.k8s.io/v1", True, Lease="leases"),
    **_kinds("networking.k8s.io/v1", True, NetworkPolicy="networkpolicies"),
    **_kinds("rbac.authorization.k8s.io/v1", True, Role="roles", RoleBinding="rolebindings"),
    **_kinds(
        "rbac.authorization.k8s.io/v1", False, ClusterRole="clusterroles", ClusterRoleBinding="clusterrolebindings"
    ),
    **_kinds("storage.k8s.io/v1", False, StorageClass="storageclasses"),
    **_kinds("node.k8s.io/v1", False, RuntimeClass="runtimeclasses"),
    **_kinds("apiextensions.k8s.io/v1", False, CustomResourceDefinition="customresourcedefinitions"),
    **_kinds("authorization.k8s.io/v1", False, SelfSubjectAccessReview="selfsubjectaccessreviews"),
    **_kinds("ray.io/v1", True, RayService="rayservices", RayCluster="rayclusters"),
    **_kinds("monitoring.coreos.com/v1", True, PodMonitor="podmonitors", ServiceMonitor="servicemonitors"),
    **_kinds("gateway.networking.k8s.io/v1", True, Gateway="gateways"),
    **_kinds("telemetry.istio.io/v1", True, Telemetry="telemetries"),
    **_kinds(
        "chaos-mesh.org/v1alpha1", True, StressChaos="stresschaos", NetworkChaos="networkchaos", PodChaos="podchaos"
    ),
}
