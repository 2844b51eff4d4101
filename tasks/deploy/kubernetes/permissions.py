"""Checks the permissions of the credentials (SelfSubjectAccessReview)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.kube.client import Cluster

READ = ("get", "list")
WRITE = ("create", "patch", "delete")
CHAOS, RAY, RBAC = "chaos-mesh.org", "ray.io", "rbac.authorization.k8s.io"
MONITORING, MESH = "monitoring.coreos.com", "gateway.networking.k8s.io"
PARALLEL = 8
WHOLE_CLUSTER = ""


@dataclass(frozen=True)
class Permission:
    """Verbs on ``plural``, with an optional subresource (``pods/log``). ``everywhere``: in all namespaces."""

    verbs: tuple[str, ...]
    plural: str
    group: str = ""
    everywhere: bool = False

    def __str__(self) -> str:
        kind = f"{self.plural}.{self.group}" if self.group else self.plural
        return f"{', '.join(self.verbs)} {kind}{' (whole cluster)' if self.everywhere else ''}"


def needed(cluster: Cluster, params: KubernetesDeployParams) -> tuple[Permission, ...]:
    """Return the permissions for deploy, inject and export. A pod needs none on accounts, roles and namespaces."""
    permissions = [
        Permission((*READ, "create", "delete"), "pods"),
        Permission(("get",), "pods/log"),
        Permission(READ, "events"),
        Permission((*READ, *WRITE), "services"),
        Permission((*READ, *WRITE), "configmaps"),
        Permission((*READ, *WRITE), "persistentvolumeclaims"),
        Permission((*READ, *WRITE), "deployments", "apps"),
        Permission((*READ, *WRITE), "networkpolicies", "networking.k8s.io"),
        Permission(("get", "create", "patch", "delete"), "leases", "coordination.k8s.io"),
        Permission((*READ, *WRITE), "rayservices", RAY),
        Permission((*READ, *WRITE), "podmonitors", MONITORING),
        Permission(READ, "nodes", everywhere=True),
        Permission(("get",), "namespaces", everywhere=True),
    ]
    permissions += [Permission((*READ, *WRITE), each, CHAOS) for each in ("stresschaos", "networkchaos", "podchaos")]
    if params.gpus_per_pod:
        permissions += [Permission((*READ, *WRITE), "nodefaults", "rcarena.io")]
        permissions += [Permission((*READ, *WRITE), "daemonsets", "apps")]
    if params.telemetry.istio:
        permissions.append(Permission((*READ, *WRITE), "gateways", MESH))
    if not cluster.address.in_cluster:
        permissions += [
            Permission(("create", "patch", "delete"), "namespaces", everywhere=True),
            Permission(WRITE, "serviceaccounts"),
            Permission(WRITE, "roles", RBAC),
            Permission(WRITE, "rolebindings", RBAC),
            Permission(WRITE, "clusterroles", RBAC, everywhere=True),
            Permission(WRITE, "clusterrolebindings", RBAC, everywhere=True),
            Permission(("create", "patch"), "customresourcedefinitions", "apiextensions.k8s.io", everywhere=True),
        ]
        if params.endpoints.gateway is None:
            permissions.append(Permission(("create",), "pods/portforward"))
    return tuple(permissions)


def missing_permissions(cluster: Cluster, params: KubernetesDeployParams) -> list[str]:
    """Return the permissions that are needed and not granted, as text. Raises ClusterError."""
    asked = needed(cluster, params)
    single = [(permission, verb) for permission in asked for verb in permission.verbs]
    with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        allowed = list(pool.map(lambda each: _allowed(cluster, *each), single))
    refused: dict[Permission, list[str]] = {}
    for (permission, verb), yes in zip(single, allowed, strict=True):
        if not yes:
            refused.setdefault(permission, []).append(verb)
    return [
        str(Permission(tuple(verbs), permission.plural, permission.group, permission.everywhere))
        for permission, verbs in refused.items()
    ]


def _allowed(cluster: Cluster, permission: Permission, verb: str) -> bool:
    plural, _, subresource = permission.plural.partition("/")
    namespace = WHOLE_CLUSTER if permission.everywhere else None
    return cluster.can_i(verb, plural, group=permission.group, subresource=subresource, namespace=namespace)
