"""Namespaces of the local stack.

The supervisor is the init process of its own PID, mount and network namespace ("the fabric"). A service has a network
namespace inside it, joined to the fabric's bridge. Nothing is pinned outside: when the supervisor ends, by whatever
signal, the kernel ends every process of the stack and frees its namespaces, links and queueing disciplines.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

BRIDGE = "rca-bridge"
INTERFACE = "eth0"
SUBNET_PREFIX = "10.77.0"
FABRIC_ADDRESS = f"{SUBNET_PREFIX}.1"
FIRST_SERVICE = 10

_CLONE_NEWNET = 0x40000000


def new_fabric(argv: list[str]) -> list[str]:
    """Return the command that runs ``argv`` as init of fresh PID, mount and network namespaces, with its own /proc."""
    return ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--net", "--mount-proc", "--", *argv]


def service_address(index: int) -> str:
    """Return the address of the ``index``-th service; the fabric itself has ``FABRIC_ADDRESS``."""
    return f"{SUBNET_PREFIX}.{FIRST_SERVICE + index}"


def fabric_link(address: str) -> str:
    """Return the fabric's end of the link of the service at ``address``."""
    return f"link{int(address.rpartition('.')[2]) - FIRST_SERVICE}"


def build_network(addresses: Mapping[str, str]) -> None:
    """Create a bridge, and a namespace and a link for each service. Call it inside a fresh fabric.

    Raises:
        subprocess.CalledProcessError: the kernel refused a step; ``stderr`` says which.
    """
    Path("/run/netns").mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{FABRIC_ADDRESS}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for service, address in addresses.items():
        link = fabric_link(address)
        run("ip", "netns", "add", service)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", INTERFACE, "netns", service)
        run("ip", "link", "set", link, "master", BRIDGE, "up")
        in_service = ("ip", "-n", service)
        run(*in_service, "link", "set", "lo", "up")
        run(*in_service, "address", "add", f"{address}/24", "dev", INTERFACE)
        run(*in_service, "link", "set", INTERFACE, "up")


def enter_fabric(supervisor_pid: int) -> list[str]:
    """Return the prefix that runs a command inside the fabric's namespaces; what it starts dies with the stack."""
    return ["nsenter", "--target", str(supervisor_pid), "--mount", "--pid", "--net", "--"]


def enter_service(supervisor_pid: int, service: str) -> list[str]:
    """Return the prefix that runs a command in the network of ``service``; what it starts dies with the stack."""
    return [*enter_fabric(supervisor_pid), "ip", "netns", "exec", service]


def join_network(pid: int) -> None:
    """Move the calling thread (call it before others start) into the network namespace of ``pid``.

    Raises:
        OSError: no such process, or not permitted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot join the network namespace of pid {pid}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def run(*argv: str) -> str:
    """Run a system command and return its output. Raises CalledProcessError with the error text in ``stderr``."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
