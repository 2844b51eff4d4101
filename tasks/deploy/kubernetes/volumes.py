"""Compares an earlier stack's volumes with the requested ones, before anything is changed."""

from __future__ import annotations

from tasks.deploy.errors import DeployError
from tasks.kube.client import Cluster, Object
from tasks.kube.manifest import Manifest

CLAIM = "PersistentVolumeClaim"


def kept_volumes(cluster: Cluster, manifests: tuple[Manifest, ...]) -> frozenset[str]:
    """Return the names of the existing claims in ``manifests`` that already fit and need no change.

    Raises:
        DeployError: claims can neither stay nor grow; the message names them and the remedy.
        ClusterError: the cluster cannot be asked.
    """
    kept: set[str] = set()
    problems: list[str] = []
    for manifest in manifests:
        if manifest.kind != CLAIM:
            continue
        live = cluster.find(manifest.api_version, CLAIM, manifest.name, namespace=manifest.namespace)
        if live is None:
            continue
        wanted = manifest.document["spec"]
        found = _differences(wanted, live["spec"])
        if not found and _size(wanted) <= _size(live["spec"]):
            kept.add(manifest.name)
        elif not found and not _may_grow(cluster, live):
            sizes = f"{_size(live['spec']) / 2**30:g} GiB, {_size(wanted) / 2**30:g} wanted"
            found = [f"{sizes}, and its storage class lets no volume grow"]
        problems += [f"{manifest.name} ({'; '.join(found)})"] if found else []
    if problems:
        raise DeployError(
            f"volumes of an earlier stack do not fit: {', '.join(problems)}. Delete them with what they hold "
            "(`rcarena deploy down --volumes`: results and weights), or set deploy.storage to what is there"
        )
    return frozenset(kept)


def _differences(wanted: Object, live: Object) -> list[str]:
    """Return the differences in fields that Kubernetes never changes on a claim."""
    found = []
    if sorted(wanted["accessModes"]) != sorted(live.get("accessModes") or ()):
        found.append(f"{', '.join(live.get('accessModes') or ())}, {', '.join(wanted['accessModes'])} wanted")
    class_name = wanted.get("storageClassName")
    if class_name is not None and class_name != live.get("storageClassName"):
        found.append(f"class {live.get('storageClassName')}, {class_name} wanted")
    return found


def _size(spec: Object) -> int:
    from kubernetes.utils.quantity import parse_quantity

    return int(parse_quantity(spec["resources"]["requests"]["storage"]))


def _may_grow(cluster: Cluster, claim: Object) -> bool:
    name = claim["spec"].get("storageClassName")
    found = cluster.find("storage.k8s.io/v1", "StorageClass", name) if name else None
    return bool(found and found.get("allowVolumeExpansion"))
