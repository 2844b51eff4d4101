from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.deploy.local.namespaces import enter_fabric, enter_service, join_network, new_fabric, service_address
from tasks.system.process import ProcessId
from tests.waiting import HANG_S

pytestmark = pytest.mark.privileged

INIT = """
import signal
from tasks.deploy.local.namespaces import build_network, service_address
build_network({"one": service_address(0), "two": service_address(1)})
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def fabric() -> Iterator[ProcessId]:
    root = str(Path(__file__).parents[3])
    command = new_fabric([sys.executable, "-c", INIT])
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}) as unshare:
        assert unshare.stdout is not None
        assert unshare.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
        init = ProcessId.of(int(children[0]))
        yield init
        init.kill()


def own_network(who: str) -> str:
    return str(Path(f"/proc/{who}/ns/net").readlink())


def namespace_of(prefix: list[str]) -> str:
    return subprocess.run(
        [*prefix, "readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_each_service_has_a_network_of_its_own_and_reaches_the_others(fabric: ProcessId) -> None:
    prefixes = [enter_fabric(fabric.pid), enter_service(fabric.pid, "one"), enter_service(fabric.pid, "two")]
    assert len({namespace_of(prefix) for prefix in prefixes} | {own_network("self")}) == 4
    address = service_address(1)
    serve = f"""
import socket
server = socket.create_server(("{address}", 7))
print("up", flush=True)
server.accept()[0].send(b"hello")
"""
    client = f"import socket; print(socket.create_connection(('{address}', 7), 5).recv(9))"
    with subprocess.Popen([*prefixes[2], sys.executable, "-c", serve], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        answer = subprocess.run(
            [*prefixes[1], sys.executable, "-c", client], capture_output=True, text=True, check=True
        )
    assert "hello" in answer.stdout


def test_kill_9_of_the_init_process_ends_everything_at_once(fabric: ProcessId) -> None:
    with subprocess.Popen([*enter_service(fabric.pid, "one"), "sleep", "300"]) as inside:
        time.sleep(0.3)
        assert inside.poll() is None
        fabric.kill(signal.SIGKILL)
        assert inside.wait(HANG_S) != 0
    assert fabric.wait_gone(5)
    assert "one" not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout.split()


def test_a_thread_joins_the_network_and_the_rest_of_the_process_stays(fabric: ProcessId) -> None:
    outside = own_network("self")

    def joined() -> str:
        join_network(fabric.pid)
        with socket.socket() as probe:
            probe.bind(("10.77.0.1", 0))
        return own_network("thread-self")

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(joined).result() != outside
    assert own_network("self") == outside


def test_an_identity_outlives_the_reuse_of_a_pid() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = ProcessId.of(process.pid)
        assert identity.alive
        assert not ProcessId(pid=identity.pid, start_ticks=identity.start_ticks - 1).alive
        identity.kill()
        process.wait()
    assert not identity.alive
    with pytest.raises(ProcessLookupError):
        ProcessId.of(identity.pid)
