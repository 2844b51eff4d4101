"""Role-based access control: what the roles on the emulated cluster let a service account do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.render import render_stack

if TYPE_CHECKING:
    from tests.kubernetes.cluster import EmulatedCluster

API = "rbac.authorization.k8s.io/v1"
KINDS = frozenset({"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"})
FOR_EVERYBODY = frozenset({("create", "authorization.k8s.io", "selfsubjectaccessreviews")})


@dataclass(frozen=True)
class Access:
    """One request, as the API server authorizes it. ``namespace`` is empty for what belongs to the whole cluster, and
    for a list over all namespaces."""

    verb: str
    group: str
    plural: str
    namespace: str
    name: str = ""

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else " (whole cluster)"
        return f"{self.verb} {self.plural}{f'.{self.group}' if self.group else ''} {self.name}{where}"


def put_roles(cluster: EmulatedCluster) -> None:
    """The accounts and roles that a stack in the cluster's namespace is rendered with."""
    params = KubernetesDeployParams(backend="kubernetes", namespace=cluster.namespace, replicas=1)
    for manifest in render_stack(params):
        if manifest.kind in KINDS:
            cluster.put(manifest.document)


def is_allowed(cluster: EmulatedCluster, account: str, account_namespace: str, access: Access) -> bool:
    """Whether a rule of a role bound to the service account covers ``access``."""
    if (access.verb, access.group, access.plural) in FOR_EVERYBODY:
        return True
    return any(_covers(rule, access) for rule in _rules(cluster, account, account_namespace, access.namespace))


def _rules(cluster: EmulatedCluster, account: str, account_namespace: str, namespace: str) -> Iterator[dict[str, Any]]:
    bindings = list(cluster.objects(API, "ClusterRoleBinding"))
    if namespace:
        bindings += [
            each for each in cluster.objects(API, "RoleBinding") if each["metadata"].get("namespace") == namespace
        ]
    subject = ("ServiceAccount", account, account_namespace)
    for binding in bindings:
        subjects = [(each["kind"], each["name"], each.get("namespace")) for each in binding.get("subjects") or ()]
        if subject not in subjects:
            continue
        kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
        role = cluster.get(API, kind, name, binding["metadata"].get("namespace") if kind == "Role" else None)
        yield from (role or {}).get("rules") or ()


def _covers(rule: dict[str, Any], access: Access) -> bool:
    def has(key: str, value: str) -> bool:
        return bool({value, "*"} & set(rule.get(key) or ()))

    names = rule.get("resourceNames")
    return (
        has("verbs", access.verb)
        and has("apiGroups", access.group)
        and has("resources", access.plural)
        and (not names or access.name in names)
    )
