"""Stand-ins for the kubelets, the controllers of Deployments and DaemonSets, and the KubeRay operator."""

from __future__ import annotations

import copy
import hashlib
import time
from typing import Any

from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.store import Object, now

READY_POD = ("Initialized", "Ready", "ContainersReady", "PodScheduled")


class Kubelet:
    """Schedules pods by GPUs and node selectors and runs them ``start_s`` after that.

    ``broken_images``: pods with one of them stay in ImagePullBackOff.
    """

    def __init__(self, start_s: float = 0, broken_images: tuple[str, ...] = ()) -> None:
        self.start_s = start_s
        self.broken_images = set(broken_images)
        self._placed_at: dict[str, float] = {}
        self._addresses = 0

    def reconcile(self, cluster: EmulatedCluster) -> None:
        pods = cluster.objects("v1", "Pod")
        for pod in pods:
            if pod["metadata"].get("deletionTimestamp") or pod.get("status", {}).get("phase") in ("Running", "Failed"):
                continue
            if not pod["spec"].get("nodeName"):
                self._schedule(cluster, pod, pods)
            elif images := {container["image"] for container in pod["spec"]["containers"]} & self.broken_images:
                self._cannot_pull(cluster, pod, images.pop())
            elif (
                time.monotonic() - self._placed_at.setdefault(pod["metadata"]["uid"], time.monotonic()) >= self.start_s
            ):
                self._run(cluster, pod)

    def _schedule(self, cluster: EmulatedCluster, pod: Object, pods: list[Object]) -> None:
        nodes = [each for each in cluster.objects("v1", "Node") if not each["spec"].get("unschedulable")]
        wanted = _gpus(pod)
        selector = pod["spec"].get("nodeSelector") or {}
        for node in nodes:
            name = node["metadata"]["name"]
            used = sum(_gpus(each) for each in pods if each["spec"].get("nodeName") == name)
            free = int(node["status"]["allocatable"].get("nvidia.com/gpu", 0)) - used
            if wanted <= free and selector.items() <= node["metadata"]["labels"].items():
                pod["spec"]["nodeName"] = name
                _change_pod(cluster, pod, lambda live, name=name: live["spec"].update(nodeName=name))
                return
        why = "Insufficient nvidia.com/gpu" if wanted else "node(s) didn't match Pod's node affinity/selector"
        message = f"0/{len(nodes)} nodes are available: {len(nodes)} {why}."
        waiting = {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
        }
        if pod.get("status") != waiting:
            _change_pod(cluster, pod, lambda live: live.update(status=waiting))
            cluster.add_event(pod, "FailedScheduling", message)

    def _cannot_pull(self, cluster: EmulatedCluster, pod: Object, image: str) -> None:
        message = f'Back-off pulling image "{image}"'
        state = {"waiting": {"reason": "ImagePullBackOff", "message": message}}
        waiting = {
            "phase": "Pending",
            "containerStatuses": [
                {"name": each["name"], "ready": False, "restartCount": 0, "state": state}
                for each in pod["spec"]["containers"]
            ],
        }
        if pod.get("status") != waiting:
            _change_pod(cluster, pod, lambda live: live.update(status=waiting))
            cluster.add_event(pod, "Failed", f'Failed to pull image "{image}": not found')

    def _run(self, cluster: EmulatedCluster, pod: Object) -> None:
        self._addresses += 1
        status = {
            "phase": "Running",
            "podIP": f"10.42.0.{self._addresses}",
            "startTime": now(),
            "conditions": [{"type": each, "status": "True"} for each in READY_POD],
            "containerStatuses": [
                {
                    "name": each["name"],
                    "image": each["image"],
                    "containerID": f"containerd://{pod['metadata']['uid'].replace('-', '')}{number}",
                    "ready": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": now()}},
                }
                for number, each in enumerate(pod["spec"]["containers"])
            ],
        }
        _change_pod(cluster, pod, lambda live: live.update(status=status))


class DeploymentController:
    """Pods of Deployments, StatefulSets and DaemonSets, and their status. Lost pods are replaced."""

    def reconcile(self, cluster: EmulatedCluster) -> None:
        nodes = [node["metadata"]["name"] for node in cluster.objects("v1", "Node")]
        for kind in ("Deployment", "StatefulSet", "DaemonSet"):
            for owner in cluster.objects("apps/v1", kind):
                if not owner["metadata"].get("deletionTimestamp"):
                    self._reconcile(cluster, kind, owner, nodes)

    def _reconcile(self, cluster: EmulatedCluster, kind: str, owner: Object, nodes: list[str]) -> None:
        slots: list[str | None] = list(nodes) if kind == "DaemonSet" else [None] * owner["spec"].get("replicas", 1)
        template = owner["spec"]["template"]
        digest = _digest(template)
        alive = []
        for pod in _owned(cluster, owner):
            if pod["metadata"]["labels"].get("pod-template-hash") == digest and len(alive) < len(slots):
                alive.append(pod)
            else:
                cluster.remove("v1", "Pod", pod["metadata"]["name"], pod["metadata"]["namespace"])
        taken = {pod["spec"].get("nodeName") for pod in alive}
        free = [slot for slot in slots if slot not in taken] if kind == "DaemonSet" else slots[len(alive) :]
        for number, node in enumerate(free):
            prefix = f"{owner['metadata']['name']}-{digest[:5]}"
            make_pod(cluster, owner, template, prefix, {"pod-template-hash": digest}, node=node, number=number)
        ready = sum(is_ready(pod) for pod in alive)
        self._publish(cluster, kind, owner, ready, len(slots))

    def _publish(self, cluster: EmulatedCluster, kind: str, owner: Object, ready: int, wanted: int) -> None:
        metadata = owner["metadata"]
        status: Object = {"observedGeneration": metadata.get("generation", 1)}
        if kind == "DaemonSet":
            status |= {"desiredNumberScheduled": wanted, "numberReady": ready, "numberAvailable": ready}
            status |= {"updatedNumberScheduled": ready}
        else:
            status |= {"replicas": wanted, "readyReplicas": ready, "availableReplicas": ready, "updatedReplicas": ready}
            available = "True" if ready >= wanted else "False"
            status["conditions"] = [{"type": "Available", "status": available}]
        cluster.set_status("apps/v1", kind, metadata["name"], status, metadata["namespace"])


def _add_scale_strategy(cluster: EmulatedCluster, service: Object) -> None:
    """KubeRay writes its resource back with an empty ``scaleStrategy`` in every worker group."""

    def add(document: Object) -> None:
        for group in document["spec"]["rayClusterConfig"].get("workerGroupSpecs") or ():
            group.setdefault("scaleStrategy", {})

    cluster.change("ray.io/v1", "RayService", service["metadata"]["name"], add, service["metadata"]["namespace"])


class RayServiceController:
    """RayCluster, head and worker pods and services of each RayService; it is Ready ``delay_s`` after the last pod."""

    def __init__(self, delay_s: float = 0) -> None:
        self.delay_s = delay_s
        self._complete_since: dict[str, float] = {}

    def reconcile(self, cluster: EmulatedCluster) -> None:
        for service in cluster.objects("ray.io/v1", "RayService"):
            if not service["metadata"].get("deletionTimestamp"):
                self._reconcile(cluster, service)

    def _reconcile(self, cluster: EmulatedCluster, service: Object) -> None:
        _add_scale_strategy(cluster, service)
        metadata, spec = service["metadata"], service["spec"]["rayClusterConfig"]
        ray_cluster = self._ray_cluster(cluster, service)
        name = ray_cluster["metadata"]["name"]
        pods = {pod["metadata"]["labels"]["ray.io/group"]: [] for pod in _owned(cluster, ray_cluster)}
        for pod in _owned(cluster, ray_cluster):
            pods[pod["metadata"]["labels"]["ray.io/group"]].append(pod)
        groups = [("headgroup", "head", 1, spec["headGroupSpec"]["template"])]
        groups += [
            (each["groupName"], "worker", each.get("replicas", 1) * each.get("numOfHosts", 1), each["template"])
            for each in spec.get("workerGroupSpecs") or ()
        ]
        for group, node_type, count, template in groups:
            labels = {"ray.io/cluster": name, "ray.io/group": group, "ray.io/node-type": node_type}
            labels |= {"ray.io/is-ray-node": "yes"}
            for number in range(count - len(pods.get(group, []))):
                make_pod(cluster, ray_cluster, template, f"{name}-{group}-{node_type}", labels, number=number)
        everything = [pod for found in pods.values() for pod in found]
        complete = len(everything) == sum(count for _, _, count, _ in groups) and all(map(is_ready, everything))
        endpoints = 0
        if complete:
            since = self._complete_since.setdefault(metadata["uid"], time.monotonic())
            if time.monotonic() - since >= self.delay_s:
                endpoints = sum(count for _, node_type, count, _ in groups if node_type == "worker")
        else:
            self._complete_since.pop(metadata["uid"], None)
        self._publish(cluster, service, name, endpoints)

    def _ray_cluster(self, cluster: EmulatedCluster, service: Object) -> Object:
        found = _owned(cluster, service, "ray.io/v1", "RayCluster")
        if found:
            return found[0]
        metadata = service["metadata"]
        name = f"{metadata['name']}-{_digest(metadata['uid'])[:5]}"
        for suffix in ("head-svc", "serve-svc"):
            cluster.put(_owned_object("v1", "Service", f"{metadata['name']}-{suffix}", service, spec={"ports": []}))
        document = _owned_object("ray.io/v1", "RayCluster", name, service, spec=service["spec"]["rayClusterConfig"])
        return cluster.put(document)

    def _publish(self, cluster: EmulatedCluster, service: Object, ray_cluster: str, endpoints: int) -> None:
        ready = endpoints > 0
        status = {
            "observedGeneration": service["metadata"].get("generation", 1),
            "numServeEndpoints": endpoints,
            "activeServiceStatus": {
                "rayClusterName": ray_cluster,
                "applicationStatuses": {"llm": {"status": "RUNNING" if ready else "DEPLOYING"}},
            },
            "conditions": _conditions(
                service,
                {"type": "Ready", "status": "True", "reason": "NonZeroServeEndpoints"}
                if ready
                else {"type": "Ready", "status": "False", "reason": "Initializing"},
                {"type": "UpgradeInProgress", "status": "False", "reason": "NoPendingCluster"},
            ),
        }
        metadata = service["metadata"]
        cluster.set_status("ray.io/v1", "RayService", metadata["name"], status, metadata["namespace"])


def _conditions(document: Object, *wanted: dict[str, str]) -> list[Object]:
    """Conditions as the schema of a CRD has them: with a message, and the time since when each is so."""
    before = {each["type"]: each for each in (document.get("status") or {}).get("conditions") or ()}
    return [
        each | {"message": each["reason"], "lastTransitionTime": _since(before.get(each["type"]), each["status"])}
        for each in wanted
    ]


def _since(before: Object | None, status: str) -> str:
    return str(before["lastTransitionTime"]) if before and before["status"] == status else now()


def make_pod(
    cluster: EmulatedCluster,
    owner: Object,
    template: Object,
    prefix: str,
    labels: dict[str, str],
    *,
    node: str | None = None,
    number: int = 0,
) -> Object:
    """A pod as the template says, with a new name; ``number`` tells pods of one moment apart."""
    metadata = template.get("metadata") or {}
    pod = _owned_object(
        "v1",
        "Pod",
        f"{prefix}-{_digest([owner['metadata']['uid'], time.time_ns(), number])[:5]}",
        owner,
        spec=copy.deepcopy(template["spec"]),
    )
    pod["metadata"]["labels"] = {**(metadata.get("labels") or {}), **labels}
    pod["metadata"]["annotations"] = dict(metadata.get("annotations") or {})
    pod["status"] = {"phase": "Pending"}
    if node is not None:
        pod["spec"]["nodeName"] = node
    return cluster.put(pod)


def is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def _owned_object(api_version: str, kind: str, name: str, owner: Object, **fields: Any) -> Object:
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }
    metadata = {"name": name, "namespace": owner["metadata"]["namespace"], "ownerReferences": [reference]}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


def _owned(cluster: EmulatedCluster, owner: Object, api_version: str = "v1", kind: str = "Pod") -> list[Object]:
    uid = owner["metadata"]["uid"]
    return [
        each
        for each in cluster.objects(api_version, kind, owner["metadata"]["namespace"])
        if any(reference["uid"] == uid for reference in each["metadata"].get("ownerReferences") or ())
        and not each["metadata"].get("deletionTimestamp")
    ]


def _change_pod(cluster: EmulatedCluster, pod: Object, change: Any) -> None:
    cluster.change("v1", "Pod", pod["metadata"]["name"], change, pod["metadata"]["namespace"])


def _gpus(pod: Object) -> int:
    limits = [(each.get("resources") or {}).get("limits") or {} for each in pod["spec"]["containers"]]
    return sum(int(each.get("nvidia.com/gpu", 0)) for each in limits)


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:10]
