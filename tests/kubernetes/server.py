"""HTTP in front of a ``Store``: routes, content types, watches, trouble."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tasks.kube.resources import Resource
from tests.kubernetes import patches
from tests.kubernetes.answers import ApiError, unknown_kind
from tests.kubernetes.rbac import Access
from tests.kubernetes.trouble import Trouble

if TYPE_CHECKING:
    from tests.kubernetes.cluster import EmulatedCluster

Object = dict[str, Any]
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, cluster: EmulatedCluster) -> None:
        self.cluster = cluster
        self.closing = False
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server
    account: str | None = None

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    @property
    def cluster(self) -> EmulatedCluster:
        return self.server.cluster

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        self.cluster.requests.append((self.command, self.path))
        trouble = self.cluster.troubles.take(self.command, self.path)
        if trouble is not None and self._meet(trouble, before=True):
            return
        try:
            self.account = self.cluster.authenticate(self.headers.get("Authorization", ""))
            body = json.loads(raw) if raw else {}
            status, answer = self._answer([unquote(part) for part in parts.path.split("/")[1:]], body)
        except ApiError as error:
            status, answer = error.status, error.document()
        except json.JSONDecodeError as error:
            status, answer = 400, ApiError(400, "BadRequest", f"the body is not JSON: {error}").document()
        if trouble is not None and self._meet(trouble, before=False):
            return
        if callable(answer):
            answer()
        else:
            self._send(status, answer, truncate=trouble is not None and trouble.truncate)

    def _meet(self, trouble: Trouble, *, before: bool) -> bool:
        """True when nothing more is to be answered."""
        if before == trouble.after:
            return False
        time.sleep(trouble.delay_s)
        if trouble.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
            self.close_connection = True
            return True
        if trouble.status is not None:
            error = ApiError(trouble.status, "InternalError", trouble.message)
            retry = {} if trouble.retry_after_s is None else {"Retry-After": str(trouble.retry_after_s)}
            self._send(trouble.status, error.document(), headers=retry)
            return True
        return False

    def _send(
        self, status: int, answer: Object | str, *, headers: dict[str, str] | None = None, truncate: bool = False
    ) -> None:
        text = isinstance(answer, str)
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if truncate else data)
        self.wfile.flush()
        if truncate:
            self.close_connection = True

    # -- routes

    def _answer(self, path: list[str], body: Any) -> tuple[int, Object | str | Callable[[], None]]:
        match path:
            case ["version"]:
                return 200, {"major": "1", "minor": "34", "gitVersion": self.cluster.version}
            case ["healthz" | "readyz" | "livez"]:
                return 200, "ok"
            case ["api"]:
                return 200, {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                return 200, self._groups()
            case ["api", "v1"]:
                return 200, self._kinds("v1")
            case ["apis", group]:
                return 200, self._group(group)
            case ["apis", group, version]:
                return 200, self._kinds(f"{group}/{version}")
            case ["api", "v1", *rest]:
                return self._resource("v1", rest, body)
            case ["apis", group, version, *rest]:
                return self._resource(f"{group}/{version}", rest, body)
        raise unknown_kind()

    def _groups(self) -> Object:
        versions: dict[str, set[str]] = {}
        for each in self.cluster.store.resources.values():
            if each.group:
                versions.setdefault(each.group, set()).add(each.api_version)
        return {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {
                    "name": group,
                    "versions": [{"groupVersion": each, "version": each.split("/")[1]} for each in sorted(found)],
                    "preferredVersion": {"groupVersion": min(found), "version": min(found).split("/")[1]},
                }
                for group, found in sorted(versions.items())
            ],
        }

    def _group(self, name: str) -> Object:
        for group in self._groups()["groups"]:
            if group["name"] == name:
                return {"kind": "APIGroup", "apiVersion": "v1", **group}
        raise unknown_kind()

    def _kinds(self, api_version: str) -> Object:
        found = [each for each in self.cluster.store.resources.values() if each.api_version == api_version]
        if not found:
            raise unknown_kind()
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        resources = [
            {
                "name": each.plural,
                "singularName": each.kind.lower(),
                "kind": each.kind,
                "namespaced": each.namespaced,
                "verbs": verbs,
            }
            for each in found
        ]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": api_version,
            "resources": [*resources, *({**each, "name": f"{each['name']}/status"} for each in resources)],
        }

    def _resource(self, api_version: str, rest: list[str], body: Any) -> tuple[int, Object | str | Callable[[], None]]:
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] != "status":
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = [*rest, "", "", ""][:3]
        resource = self.cluster.store.resource(api_version, plural)
        if resource.namespaced and not namespace and self.command != "GET":
            raise unknown_kind()
        if plural == "selfsubjectaccessreviews":
            return 201, self._review(body)
        listing = self.command == "GET" and not name
        watching = listing and self.query.get("watch") in ("1", "true")
        verb = "watch" if watching else "list" if listing else VERBS[self.command]
        what = f"{plural}/{subresource}" if subresource else plural
        self.cluster.check_permission(self.account, Access(verb, resource.group, what, namespace, name))
        if verb == "patch" and not subresource and self._would_create(resource, namespace, name):
            self.cluster.check_permission(self.account, Access("create", resource.group, what, namespace, name))
        if watching:
            return 200, lambda: self._watch(resource, namespace)
        if listing:
            return 200, self._list(resource, namespace)
        return self._object(resource, namespace, name, subresource, body)

    def _would_create(self, resource: Resource, namespace: str, name: str) -> bool:
        applied = self.headers.get("Content-Type", "").startswith("application/apply-patch")
        return applied and self.cluster.get(resource.api_version, resource.kind, name, namespace) is None

    def _object(
        self, resource: Resource, namespace: str, name: str, subresource: str, body: Any
    ) -> tuple[int, Object | str]:
        store, dry_run = self.cluster.store, self.query.get("dryRun") == "All"
        if subresource not in ("", "status", "log"):
            raise unknown_kind()
        match self.command:
            case "GET" if subresource == "log":
                store.get(resource, namespace, name)
                return 200, self.cluster.log_of(namespace, name, self.query)
            case "GET":
                return 200, store.get(resource, namespace, name)
            case "POST":
                return 201, store.create(resource, namespace, body, dry_run=dry_run)
            case "PUT":
                return 200, store.replace(resource, namespace, name, body, subresource=subresource, dry_run=dry_run)
            case "PATCH":
                return self._patch(resource, namespace, name, subresource, body, dry_run)
            case _:
                uid = (body.get("preconditions") or {}).get("uid")
                propagation = body.get("propagationPolicy") or "Background"
                return 200, store.delete(resource, namespace, name, uid=uid, propagation=propagation)

    def _patch(
        self, resource: Resource, namespace: str, name: str, subresource: str, body: Any, dry_run: bool
    ) -> tuple[int, Object]:
        store, kind = self.cluster.store, self.headers.get("Content-Type", "").split(";")[0]
        if kind == "application/apply-patch+yaml":
            if "fieldManager" not in self.query:
                raise ApiError(400, "BadRequest", "fieldManager is required for apply patch")
            manager, force = self.query["fieldManager"], self.query.get("force") == "true"
            document, new = store.apply(resource, namespace, name, body, manager, force=force, dry_run=dry_run)
            return (201 if new else 200), document
        if (
            kind == "application/strategic-merge-patch+json"
            and "." in resource.group
            and ".k8s.io" not in resource.group
        ):
            raise ApiError(415, "UnsupportedMediaType", "strategic merge patch is not supported for custom resources")
        changes: dict[str, Callable[[Object], Object]] = {
            "application/merge-patch+json": lambda live: patches.merge_patch(live, body),
            "application/strategic-merge-patch+json": lambda live: patches.strategic_merge(live, body),
            "application/json-patch+json": lambda live: patches.json_patch(live, body),
        }
        if kind not in changes:
            raise ApiError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")
        return 200, store.patch(resource, namespace, name, changes[kind], subresource=subresource, dry_run=dry_run)

    def _review(self, body: Object) -> Object:
        asked = body["spec"]["resourceAttributes"]
        what = f"{asked['resource']}/{asked['subresource']}" if asked.get("subresource") else asked["resource"]
        access = Access(asked["verb"], asked.get("group", ""), what, asked.get("namespace", ""), asked.get("name", ""))
        allowed = self.cluster.allows(self.account, access)
        return {**body, "status": {"allowed": allowed}}

    def _list(self, resource: Resource, namespace: str) -> Object:
        labels, fields = self.query.get("labelSelector", ""), self.query.get("fieldSelector", "")
        items = self.cluster.store.select(resource, namespace, labels, fields)
        start = int(base64.b64decode(self.query["continue"])) if self.query.get("continue") else 0
        limit = int(self.query.get("limit") or 0) or len(items) or 1
        metadata: Object = {"resourceVersion": str(self.cluster.store.version)}
        if start + limit < len(items):
            metadata["continue"] = base64.b64encode(str(start + limit).encode()).decode()
            metadata["remainingItemCount"] = len(items) - start - limit
        page = items[start : start + limit]
        if "." not in resource.group or resource.group.endswith(".k8s.io"):
            for item in page:  # built-in kinds: the type of the items goes without saying
                del item["apiVersion"], item["kind"]
        return {"apiVersion": resource.api_version, "kind": f"{resource.kind}List", "metadata": metadata, "items": page}

    def _watch(self, resource: Resource, namespace: str) -> None:
        from tests.kubernetes.selectors import field_matcher, label_matcher

        store = self.cluster.store
        wanted = label_matcher(self.query.get("labelSelector", ""))
        fields = field_matcher(self.query.get("fieldSelector", ""))
        end = time.monotonic() + float(self.query.get("timeoutSeconds") or 300)
        version = int(self.query.get("resourceVersion") or 0)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if version == 0:
            version = store.version
            for item in store.select(resource, namespace):
                if wanted(item) and fields(item):
                    self._chunk({"type": "ADDED", "object": item})
        while time.monotonic() < end and not self.server.closing:
            try:
                changes = store.changes_since(resource, version)
            except ApiError as error:
                self._chunk({"type": "ERROR", "object": error.document()})
                break
            for at, what, item in changes:
                version = at
                if namespace in ("", item["metadata"].get("namespace", "")) and wanted(item) and fields(item):
                    self._chunk({"type": what, "object": item})
            self.wfile.flush()
            with store.changed:
                if not changes:
                    store.changed.wait(0.1)
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _chunk(self, event: Object) -> None:
        data = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()
