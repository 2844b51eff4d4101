"""The objects of an emulated cluster: versions, finalizers, owners, watches."""

from __future__ import annotations

import itertools
import random
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from tasks.kube.resources import RESOURCES, Resource
from tests.kubernetes import answers, patches
from tests.kubernetes.answers import ApiError
from tests.kubernetes.defaults import NO_STATUS, SET_BY_SERVER, fill_in
from tests.kubernetes.selectors import field_matcher, label_matcher

Object = dict[str, Any]
Key = tuple[str, str]
Admission = Callable[[Object], list[tuple[str, str]]]

GENERATED = "bcdfghjklmnpqrstvwxz2456789"
MORE = (
    Resource("rcarena.io/v1alpha1", "NodeFault", "nodefaults", namespaced=True),
    Resource("v1", "ResourceQuota", "resourcequotas", namespaced=True),
    Resource("v1", "LimitRange", "limitranges", namespaced=True),
    Resource("v1", "PersistentVolume", "persistentvolumes", namespaced=False),
    Resource("apps/v1", "ReplicaSet", "replicasets", namespaced=True),
    Resource("batch/v1", "CronJob", "cronjobs", namespaced=True),
    Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", namespaced=True),
    Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", namespaced=True),
    Resource("networking.k8s.io/v1", "Ingress", "ingresses", namespaced=True),
    Resource("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", namespaced=False),
    Resource("ray.io/v1", "RayJob", "rayjobs", namespaced=True),
    Resource("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules", namespaced=True),
    Resource("security.istio.io/v1", "PeerAuthentication", "peerauthentications", namespaced=True),
    Resource("chaos-mesh.org/v1alpha1", "IOChaos", "iochaos", namespaced=True),
    Resource("chaos-mesh.org/v1alpha1", "TimeChaos", "timechaos", namespaced=True),
)
"""Kinds that the cluster serves beside those that our client knows by itself."""


class Store:
    """All methods take the lock themselves; what they return are copies."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.resources: dict[tuple[str, str], Resource] = {
            (each.api_version, each.plural): each for each in (*RESOURCES.values(), *MORE)
        }
        self.admissions: dict[tuple[str, str], Admission] = {}
        self.version = 1
        self._objects: dict[Resource, dict[Key, Object]] = {}
        self._applied: dict[tuple[Resource, Key], dict[str, Object]] = {}
        self.history: list[tuple[int, Resource, str, Object]] = []
        self.oldest_version = 0
        self._addresses = itertools.count(1)

    # -- kinds

    def resource(self, api_version: str, plural: str) -> Resource:
        try:
            return self.resources[api_version, plural]
        except KeyError:
            raise answers.unknown_kind() from None

    def of_kind(self, api_version: str, kind: str) -> Resource:
        for each in self.resources.values():
            if (each.api_version, each.kind) == (api_version, kind):
                return each
        raise KeyError(f"{api_version} {kind}")

    def register(self, resource: Resource) -> None:
        with self.lock:
            self.resources[resource.api_version, resource.plural] = resource

    def unregister(self, group: str) -> None:
        with self.lock:
            self.resources = {key: each for key, each in self.resources.items() if each.group != group}

    # -- reading

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        with self.lock:
            return clone(self._live(resource, namespace, name))

    def select(self, resource: Resource, namespace: str = "", labels: str = "", fields: str = "") -> list[Object]:
        try:
            matches_labels, matches_fields = label_matcher(labels), field_matcher(fields)
        except ValueError as error:
            raise ApiError(400, "BadRequest", str(error)) from error
        with self.lock:
            found = [
                clone(each)
                for (place, _), each in sorted(self._objects.get(resource, {}).items())
                if namespace in ("", place) and matches_labels(each) and matches_fields(each)
            ]
        return found

    # -- writing

    def create(self, resource: Resource, namespace: str, document: Object, *, dry_run: bool = False) -> Object:
        with self.lock:
            document = clone(document)
            self._check_scope(resource, namespace, document)
            metadata = document["metadata"]
            if "name" not in metadata:
                metadata["name"] = metadata["generateName"] + "".join(random.choices(GENERATED, k=5))
            name = metadata["name"]
            self._check_namespace(resource, namespace)
            self._admit(resource, document)
            if (namespace, name) in self._objects.get(resource, {}):
                raise answers.already_exists(resource, name)
            if self._has_status(resource):
                document.pop("status", None)
            metadata.pop("resourceVersion", None)
            metadata["uid"] = str(uuid.uuid4())
            metadata["creationTimestamp"] = now()
            metadata.setdefault("generation", 1)
            self._default(resource, document)
            if not dry_run:
                self._put(resource, (namespace, name), document, "ADDED")
            return clone(document)

    def replace(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        document: Object,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        with self.lock:
            live = self._live(resource, namespace, name)
            self._check_version(resource, live, document)
            return self._update(resource, live, clone(document), subresource, dry_run)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Callable[[Object], Object],
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """``change`` maps the live object to the new one; ValueError from it is a 422."""
        with self.lock:
            live = self._live(resource, namespace, name)
            try:
                wanted = change(clone(live))
            except ValueError as error:
                raise ApiError(422, "Invalid", str(error), answers.details(resource, name)) from error
            self._check_version(resource, live, wanted)
            return self._update(resource, live, wanted, subresource, dry_run)

    def apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        document: Object,
        manager: str,
        *,
        force: bool,
        dry_run: bool,
    ) -> tuple[Object, bool]:
        """Server-side apply: the object, and whether it is new."""
        with self.lock:
            document = clone(document)
            live = self._objects.get(resource, {}).get((namespace, name))
            stamp = [{"manager": manager, "operation": "Apply", "apiVersion": resource.api_version, "time": now()}]
            if live is None:
                created = self.create(
                    resource,
                    namespace,
                    {**document, "metadata": {**document["metadata"], "managedFields": stamp}},
                    dry_run=dry_run,
                )
                if not dry_run:
                    self._applied[resource, (namespace, name)] = {manager: document}
                return created, True
            managers = self._applied.get((resource, (namespace, name)), {})
            if not force:
                self._check_owners(resource, live, document, managers, manager)
            merged = patches.apply_patch(live, managers.get(manager, {}), document)
            merged["metadata"].setdefault("managedFields", stamp)
            updated = self._update(resource, live, merged, "", dry_run)
            if not dry_run:
                self._applied[resource, (namespace, name)] = {**managers, manager: document}
            return updated, False

    def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str | None = None, propagation: str = "Background"
    ) -> Object:
        """Gone at once, or marked while finalizers are left."""
        with self.lock:
            live = self._live(resource, namespace, name)
            if uid is not None and uid != live["metadata"]["uid"]:
                raise answers.other_uid(resource, name, uid, live["metadata"]["uid"])
            if propagation == "Orphan":
                self._orphan(live["metadata"]["uid"])
            marked = clone(live)
            marked["metadata"].setdefault("deletionTimestamp", now())
            if resource.kind == "Namespace":
                marked["status"] = {**marked.get("status", {}), "phase": "Terminating"}
            if live != marked:
                self._put(resource, (namespace, name), marked, "MODIFIED")
            self._collect()
            return clone(marked)

    def put(self, document: Object) -> Object:
        """As a controller or a fixture: create or replace the whole object with its status, unchecked."""
        with self.lock:
            document = clone(document)
            resource = self.of_kind(document["apiVersion"], document["kind"])
            metadata = document["metadata"]
            key = (metadata.get("namespace", "") if resource.namespaced else "", metadata["name"])
            live = self._objects.get(resource, {}).get(key)
            metadata["uid"] = live["metadata"]["uid"] if live else metadata.get("uid", str(uuid.uuid4()))
            metadata.setdefault("creationTimestamp", now())
            metadata.setdefault("generation", 1)
            self._default(resource, document)
            self._put(resource, key, document, "MODIFIED" if live else "ADDED")
            self._collect_after(document)
            return clone(document)

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Gone, whatever its finalizers."""
        with self.lock:
            self._forget(resource, (namespace, name))
            self._collect()

    # -- watching

    def changes_since(self, resource: Resource, version: int) -> list[tuple[int, str, Object]]:
        with self.lock:
            if version < self.oldest_version:
                raise ApiError(410, "Expired", f"too old resource version: {version} ({self.version})")
            recent = [(at, what, each) for at, of, what, each in self.history if of == resource and at > version]
            return [(at, what, clone(each)) for at, what, each in recent]

    def compact(self) -> None:
        """Forget the history: older watches get 410."""
        with self.lock:
            self.oldest_version = self.version
            self.history.clear()

    # -- inside, with the lock held

    def _live(self, resource: Resource, namespace: str, name: str) -> Object:
        try:
            return self._objects.get(resource, {})[namespace, name]
        except KeyError:
            raise answers.not_found(resource, name) from None

    def _put(self, resource: Resource, key: Key, document: Object, what: str) -> None:
        if resource.kind == "CustomResourceDefinition":
            self._establish(document)
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)
        self._objects.setdefault(resource, {})[key] = document
        self.history.append((self.version, resource, what, document))
        self.changed.notify_all()

    def _forget(self, resource: Resource, key: Key) -> None:
        document = self._objects.get(resource, {}).pop(key, None)
        self._applied.pop((resource, key), None)
        if document is not None:
            document = clone(document)
            self.version += 1
            document["metadata"]["resourceVersion"] = str(self.version)
            self.history.append((self.version, resource, "DELETED", document))
            self.changed.notify_all()

    def _update(self, resource: Resource, live: Object, wanted: Object, subresource: str, dry_run: bool) -> Object:
        name = live["metadata"]["name"]
        if subresource == "status":
            wanted = {**live, "status": wanted.get("status", {})}
        elif self._has_status(resource):
            wanted = {**wanted, **({"status": live["status"]} if "status" in live else {})}
            if "status" not in live:
                wanted.pop("status", None)
        wanted = clone(wanted)
        for key in SET_BY_SERVER:
            if key in live["metadata"]:
                wanted["metadata"][key] = live["metadata"][key]
            else:
                wanted["metadata"].pop(key, None)
        wanted["apiVersion"], wanted["kind"] = resource.api_version, resource.kind
        if not subresource:
            self._admit(resource, wanted)
            self._default(resource, wanted)
        if _body(wanted) != _body(live):
            wanted["metadata"]["generation"] = live["metadata"].get("generation", 1) + 1
        if wanted != live and not dry_run:
            self._put(resource, (live["metadata"].get("namespace", ""), name), wanted, "MODIFIED")
            self._collect_after(wanted)
        return clone(wanted)

    def _collect_after(self, written: Object) -> None:
        """``_collect`` if this write can have made something to collect."""
        namespaces = self._objects[self.of_kind("v1", "Namespace")].values()
        dying = any("deletionTimestamp" in each["metadata"] for each in namespaces)
        if dying or "deletionTimestamp" in written["metadata"] or "ownerReferences" in written["metadata"]:
            self._collect()

    def _collect(self) -> None:
        """Remove what is marked and has no finalizer, what lost its last owner, and what is in a dying namespace."""
        again = True
        while again:
            again = False
            everything = [(res, key, each) for res, objects in self._objects.items() for key, each in objects.items()]
            uids = {each["metadata"]["uid"] for _, _, each in everything}
            dying = {
                key[1]
                for res, key, each in everything
                if res.kind == "Namespace" and each["metadata"].get("deletionTimestamp")
            }
            for resource, key, each in everything:
                metadata = each["metadata"]
                owners = metadata.get("ownerReferences") or ()
                orphaned = bool(owners) and not any(owner["uid"] in uids for owner in owners)
                if (orphaned or key[0] in dying) and not metadata.get("deletionTimestamp"):
                    marked = clone(each)
                    marked["metadata"]["deletionTimestamp"] = now()
                    self._put(resource, key, marked, "MODIFIED")
                    metadata, again = marked["metadata"], True
                full = resource.kind == "Namespace" and any(place == key[1] for _, (place, _), _ in everything)
                if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and not full:
                    self._forget(resource, key)
                    again = True

    def _orphan(self, uid: str) -> None:
        for resource, objects in self._objects.items():
            for key, each in tuple(objects.items()):
                owners = each["metadata"].get("ownerReferences") or ()
                if any(owner["uid"] == uid for owner in owners):
                    freed = clone(each)
                    freed["metadata"]["ownerReferences"] = [owner for owner in owners if owner["uid"] != uid]
                    self._put(resource, key, freed, "MODIFIED")

    def _check_scope(self, resource: Resource, namespace: str, document: Object) -> None:
        if (document.get("apiVersion"), document.get("kind")) != (resource.api_version, resource.kind):
            raise ApiError(400, "BadRequest", f"the object provided is unrecognized (must be of type {resource.kind})")
        if resource.namespaced:
            given = document["metadata"].setdefault("namespace", namespace)
            if given != namespace:
                message = "the namespace of the provided object does not match the namespace sent on the request"
                raise ApiError(400, "BadRequest", message)

    def _check_namespace(self, resource: Resource, namespace: str) -> None:
        if not resource.namespaced:
            return
        found = self._objects.get(self.of_kind("v1", "Namespace"), {}).get(("", namespace))
        if found is None:
            details = {"name": namespace, "kind": "namespaces"}
            raise ApiError(404, "NotFound", f'namespaces "{namespace}" not found', details)
        if found["metadata"].get("deletionTimestamp"):
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise ApiError(403, "Forbidden", message)

    def _check_version(self, resource: Resource, live: Object, wanted: Object) -> None:
        given = wanted["metadata"].get("resourceVersion")
        if given and given != live["metadata"]["resourceVersion"]:
            raise answers.modified(resource, live["metadata"]["name"])

    def _check_owners(
        self, resource: Resource, live: Object, document: Object, managers: dict[str, Object], manager: str
    ) -> None:
        others = [each for name, each in managers.items() if name != manager]
        fields = sorted({field for each in others for field in patches.conflicts(each, document)})
        if fields:
            raise answers.owned_by_others(resource, live["metadata"]["name"], fields)

    def _admit(self, resource: Resource, document: Object) -> None:
        admission = self.admissions.get((resource.api_version, resource.kind))
        problems = admission(document) if admission else []
        if problems:
            raise answers.invalid(resource, document["metadata"].get("name", ""), problems)

    def _has_status(self, resource: Resource) -> bool:
        return resource.kind not in NO_STATUS

    def _default(self, resource: Resource, document: Object) -> None:
        fill_in(resource.kind, document, next(self._addresses))

    def _establish(self, document: Object) -> None:
        """A CRD makes its kind known."""
        spec = document["spec"]
        for version in spec["versions"]:
            names = spec["names"]
            api_version = f"{spec['group']}/{version['name']}"
            self.register(Resource(api_version, names["kind"], names["plural"], spec["scope"] == "Namespaced"))


def clone(document: Object) -> Object:
    """A deep copy. What is stored is never changed in place, so the history may share it."""
    copied: Object = orjson.loads(orjson.dumps(document))
    return copied


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _body(document: Object) -> Object:
    return {key: value for key, value in document.items() if key not in ("metadata", "status")}
