"""API client for objects of any kind: plain documents in, plain documents out, one family of errors."""

from __future__ import annotations

import json
from typing import Any, Literal

from tasks.kube.address import ClusterAddress
from tasks.kube.errors import ClusterError, ConflictError, NotFoundError, UnreachableError
from tasks.kube.resources import RESOURCES, Resource
from tasks.kube.transport import (
    CONNECT_TIMEOUT_S,
    DEADLINE_S,
    FIELD_MANAGER,
    JSON,
    READ_TIMEOUT_S,
    Request,
    Transport,
)

ALL_NAMESPACES = "*"
PAGE = 500
RESTARTS_OF_A_LIST = 3
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"

Object = dict[str, Any]
Objects = list[dict[str, Any]]
Propagation = Literal["Background", "Foreground", "Orphan"]


class Cluster:
    """An open connection to a cluster; safe to use from several threads.

    A ``namespace`` of None means the namespace of the address for kinds that have one. Raises ClusterError (see
    ``tasks.kube.errors``) everywhere.
    """

    def __init__(
        self,
        address: ClusterAddress,
        *,
        deadline_s: float = DEADLINE_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self.address = address
        self._transport = Transport(
            address, deadline_s=deadline_s, connect_timeout_s=connect_timeout_s, read_timeout_s=read_timeout_s
        )
        self._discovered: dict[str, dict[str, Resource]] = {}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    @property
    def namespace(self) -> str:
        return self.address.namespace

    @property
    def host(self) -> str:
        """Scheme, name and port of the API server."""
        return self._transport.host

    @property
    def label(self) -> str:
        """Context and server, for messages."""
        return self._transport.label

    def get(self, api_version: str, kind: str, name: str, *, namespace: str | None = None) -> Object:
        resource, place = self._locate(api_version, kind, namespace)
        return self._json("GET", resource.path(place, name), f"get {_describe(kind, place, name)}")

    def find(self, api_version: str, kind: str, name: str, *, namespace: str | None = None) -> Object | None:
        """Return the object, None when there is no such object (or no such kind)."""
        try:
            return self.get(api_version, kind, name, namespace=namespace)
        except NotFoundError:
            return None

    def list(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Objects:
        """Return all objects, read page by page; ``namespace=ALL_NAMESPACES`` means the whole cluster."""
        resource, place = self._locate(api_version, kind, namespace)
        path = resource.path(None if place == ALL_NAMESPACES else place)
        query = {"labelSelector": label_selector, "fieldSelector": field_selector, "limit": str(PAGE)}
        for _ in range(RESTARTS_OF_A_LIST):
            try:
                return self._pages(path, query, api_version, kind, place)
            except ClusterError as error:
                if error.status != 410:
                    raise
        raise UnreachableError(f"list {_describe(kind, place)}: changes faster than it can be read ({self.label})")

    def create(self, document: Object, *, dry_run: bool = False) -> Object:
        """Create an object; unknown fields are refused. Raises ConflictError (``already_exists``) for a taken name."""
        resource, place, name = self._locate_document(document)
        named = "name" in document["metadata"]
        return self._json(
            "POST",
            resource.path(place),
            f"create {_describe(resource.kind, place, name)}",
            query={"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", **_dry_run(dry_run)},
            body=document,
            repeatable=named,
        )

    def apply(self, document: Object, *, dry_run: bool = False, force: bool = True) -> Object:
        """Server-side apply: fields that an earlier apply set and this one lacks are removed; others' stay.

        Unknown fields are refused. The answer is the object as it is (with ``dry_run``: as it would be).
        """
        resource, place, name = self._locate_document(document)
        return self._json(
            "PATCH",
            resource.path(place, name),
            f"apply {_describe(resource.kind, place, name)}",
            query={
                "fieldManager": FIELD_MANAGER,
                "fieldValidation": "Strict",
                "force": str(force).lower(),
                **_dry_run(dry_run),
            },
            body=document,
            content_type=APPLY_PATCH,
        )

    def merge_patch(
        self,
        api_version: str,
        kind: str,
        name: str,
        patch: Object,
        *,
        namespace: str | None = None,
        subresource: Literal["status", "scale"] | None = None,
    ) -> Object:
        """Apply a JSON merge patch: None removes a key, lists are replaced. Raises ConflictError when the object is no
        longer at the ``metadata.resourceVersion`` of ``patch``."""
        resource, place = self._locate(api_version, kind, namespace)
        return self._json(
            "PATCH",
            resource.path(place, name, subresource),
            f"patch {_describe(kind, place, name)}",
            query={"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type=MERGE_PATCH,
        )

    def delete(
        self,
        api_version: str,
        kind: str,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        propagation: Propagation = "Background",
        grace_s: int | None = None,
    ) -> bool:
        """Ask for the deletion; False when there is no such object (with ``uid``: not that one any more).

        An object with finalizers stays until its controller has removed them.
        """
        resource, place = self._locate(api_version, kind, namespace)
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            self._json("DELETE", resource.path(place, name), f"delete {_describe(kind, place, name)}", body=options)
        except NotFoundError:
            return False
        except ConflictError:
            if uid is None:
                raise
            return False
        return True

    def logs(
        self,
        pod: str,
        *,
        namespace: str | None = None,
        container: str | None = None,
        tail_lines: int | None = None,
        previous: bool = False,
    ) -> str:
        """Return the log of a pod's container as text."""
        resource, place = self._locate("v1", "Pod", namespace)
        query = {"container": container or "", "tailLines": "" if tail_lines is None else str(tail_lines)}
        if previous:
            query["previous"] = "true"
        request = Request("GET", resource.path(place, pod, "log"), f"log of {_describe('Pod', place, pod)}", query)
        text: str = self._transport.send(request, lambda body: body.decode(errors="replace"))
        return text

    def can_i(
        self, verb: str, plural: str, *, group: str = "", subresource: str = "", namespace: str | None = None
    ) -> bool:
        """Ask whether these credentials may (SelfSubjectAccessReview). ``namespace`` "" means the whole cluster."""
        attributes = {
            "verb": verb,
            "resource": plural,
            "group": group,
            "subresource": subresource,
            "namespace": self.namespace if namespace is None else namespace,
        }
        resource = RESOURCES["authorization.k8s.io/v1", "SelfSubjectAccessReview"]
        review = {"apiVersion": resource.api_version, "kind": resource.kind, "spec": {"resourceAttributes": attributes}}
        answer = self._json("POST", resource.path(), "ask for permissions", body=review)
        return bool((answer.get("status") or {}).get("allowed"))

    def version(self) -> str:
        """Return the server's version, for example ``v1.34.2+k3s1``."""
        return str(self._json("GET", "/version", "ask for the version").get("gitVersion", "unknown"))

    def plurals(self, group: str) -> set[str]:
        """Return the plurals of an API group's kinds, in any version. Raises NotFoundError for an unknown group."""
        versions = self._json("GET", f"/apis/{group}", f"ask for the versions of {group}").get("versions") or ()
        return {each.plural for version in versions for each in self._discover(str(version["groupVersion"])).values()}

    def resource(self, api_version: str, kind: str) -> Resource:
        """Return path and scope of a kind. Raises NotFoundError for one that neither the table nor the cluster has."""
        known = RESOURCES.get((api_version, kind)) or self._discovered.get(api_version, {}).get(kind)
        found = known or self._discover(api_version).get(kind)
        if found is None:
            raise NotFoundError(f"{api_version} has no kind {kind} ({self.label})", 404)
        return found

    def _discover(self, api_version: str) -> dict[str, Resource]:
        path = f"/{'apis' if '/' in api_version else 'api'}/{api_version}"
        answer = self._json("GET", path, f"ask for the kinds of {api_version}")
        found = {
            str(entry["kind"]): Resource(api_version, entry["kind"], entry["name"], bool(entry["namespaced"]))
            for entry in answer.get("resources") or ()
            if "/" not in entry["name"]
        }
        self._discovered[api_version] = found
        return found

    def _locate_document(self, document: Object) -> tuple[Resource, str | None, str]:
        resource = self.resource(str(document["apiVersion"]), str(document["kind"]))
        metadata = document["metadata"]
        place = (metadata.get("namespace") or self.namespace) if resource.namespaced else None
        return resource, place, str(metadata.get("name") or metadata.get("generateName"))

    def _locate(self, api_version: str, kind: str, namespace: str | None) -> tuple[Resource, str | None]:
        resource = self.resource(api_version, kind)
        return resource, (namespace or self.namespace) if resource.namespaced else None

    def _pages(self, path: str, query: dict[str, str], api_version: str, kind: str, place: str | None) -> Objects:
        found: Objects = []
        token = ""
        while True:
            page = self._json("GET", path, f"list {_describe(kind, place)}", query={**query, "continue": token})
            found += [{"apiVersion": api_version, "kind": kind, **item} for item in page.get("items") or ()]
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found

    def _json(
        self,
        method: str,
        path: str,
        action: str,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        content_type: str = JSON,
        repeatable: bool = True,
    ) -> Object:
        document: Object = self._transport.send(
            Request(method, path, action, query or {}, body, content_type, repeatable), json.loads
        )
        return document


def _describe(kind: str, namespace: str | None, name: str = "") -> str:
    place = "" if namespace in (None, ALL_NAMESPACES) else f"{namespace}/"
    return f"{kind} {place}{name}".strip()


def _dry_run(asked: bool) -> dict[str, str]:
    return {"dryRun": "All"} if asked else {}
