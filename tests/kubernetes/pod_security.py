"""The Pod Security Standards, as the API server's admission judges a pod: what keeps a pod out of ``restricted``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
SECCOMP = ("RuntimeDefault", "Localhost")
SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_syncookies",
    }
)


def restricted_problems(spec: dict[str, Any]) -> list[str]:
    """One line per field of a pod's spec that ``restricted`` (and ``baseline``, which it includes) does not allow."""
    return [
        *_pod_problems(spec),
        *(problem for each in _containers(spec) for problem in _container_problems(spec, each)),
    ]


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for key in ("initContainers", "containers", "ephemeralContainers") for each in spec.get(key) or ()]


def _pod_problems(spec: dict[str, Any]) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes") or ():
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']}: {kind}"
    for sysctl in (spec.get("securityContext") or {}).get("sysctls") or ():
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"


def _container_problems(spec: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    own, of_pod = container.get("securityContext") or {}, spec.get("securityContext") or {}

    def effective(key: str) -> Any:
        return own[key] if own.get(key) is not None else of_pod.get(key)

    name, capabilities = container["name"], own.get("capabilities") or {}
    if own.get("privileged"):
        yield f"{name}: privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation is not false"
    if "ALL" not in (capabilities.get("drop") or ()):
        yield f"{name}: does not drop ALL capabilities"
    for capability in capabilities.get("add") or ():
        if capability != "NET_BIND_SERVICE":
            yield f"{name}: adds {capability}"
    if effective("runAsNonRoot") is not True:
        yield f"{name}: runAsNonRoot is not true"
    if effective("runAsUser") == 0:
        yield f"{name}: runAsUser is 0"
    if (effective("seccompProfile") or {}).get("type") not in SECCOMP:
        yield f"{name}: no seccompProfile"
    if (effective("appArmorProfile") or {}).get("type") == "Unconfined":
        yield f"{name}: AppArmor is off"
    if (effective("seLinuxOptions") or {}).keys() & {"user", "role"}:
        yield f"{name}: SELinux user or role"
    if own.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        yield f"{name}: hostPort"
