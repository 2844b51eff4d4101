"""Ways to the services: URLs by where we are, and forwards held by a stand-in for kubectl."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.deploy.errors import DeployError
from tasks.deploy.health import is_up
from tasks.deploy.kubernetes import access
from tasks.deploy.kubernetes.access import LOCALHOST, choose_urls, open_forwards
from tasks.deploy.kubernetes.runtime import Forward
from tasks.kube.address import ClusterAddress
from tests.deploy.kubernetes.conftest import MakeParams
from tests.waiting import until

OUTSIDE = ClusterAddress(namespace="rcarena", context="c", kubeconfig="/nowhere/config")
INSIDE = ClusterAddress(namespace="rcarena")

KUBECTL = f"""#!{sys.executable}
import os, pathlib, signal, socket, sys, time
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + " KUBECONFIG=" + os.environ["KUBECONFIG"] + "\\n")
if (here / "refuse").exists():
    sys.exit("error: services \\"nginx-proxy\\" not found")
with (here / "pids").open("a") as pids:
    pids.write(f"{{os.getpid()}}\\n")
server = socket.create_server(("127.0.0.1", int(sys.argv[-1].split(":")[0])))
while True:
    server.accept()[0].close()
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a stand-in: it notes how it was called and listens like a forward."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(access, "LOOK_INTERVAL_S", 0.1)
    return program.parent


def forward(port: int) -> Forward:
    return Forward(namespace="rcarena", service="nginx-proxy", port=8080, local_port=port)


def pids(directory: Path) -> list[int]:
    file = directory / "pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


class TestUrls:
    def test_given_urls_are_used(self, make_params: MakeParams) -> None:
        params = make_params(endpoints={"gateway": "http://g/", "prometheus": "http://p", "loki": "http://l"})
        urls = choose_urls(params, OUTSIDE)
        assert (urls.gateway, urls.prometheus, urls.loki, urls.spans, urls.forwards) == (
            "http://g",
            "http://p",
            "http://l",
            None,
            (),
        )

    def test_inside_a_pod_the_names_of_the_services_are_used(self, make_params: MakeParams) -> None:
        urls = choose_urls(make_params(endpoints={}, telemetry={"install": True}), INSIDE)
        assert urls.gateway == "http://nginx-proxy.rcarena.svc.cluster.local:8080"
        assert urls.prometheus == "http://prometheus-prometheus.rcarena-telemetry.svc.cluster.local:9090"
        assert urls.deepflow is None
        assert urls.forwards == ()

    def test_elsewhere_ports_of_this_machine_are_used_and_kept(self, make_params: MakeParams) -> None:
        params = make_params(endpoints={}, telemetry={"install": True, "deepflow": True})
        urls = choose_urls(params, OUTSIDE)
        assert {each.service for each in urls.forwards} == {
            "nginx-proxy",
            "prometheus-prometheus",
            "loki",
            "otel-collector",
            "deepflow-server",
        }
        assert urls.gateway == f"http://127.0.0.1:{urls.forwards[0].local_port}"
        assert choose_urls(params, OUTSIDE, urls.forwards) == urls

    def test_a_cluster_with_its_own_prometheus_must_say_where(self, make_params: MakeParams) -> None:
        with pytest.raises(DeployError, match=r"deploy\.endpoints\.prometheus: must be given"):
            choose_urls(make_params(endpoints={}), OUTSIDE)


class TestForwards:
    def test_are_open_meanwhile_and_closed_afterwards(self, kubectl: Path) -> None:
        port = access._free_port()
        with open_forwards(OUTSIDE, (forward(port),)):
            assert is_up(LOCALHOST, port)
        until(lambda: not is_up(LOCALHOST, port))
        assert (kubectl / "calls").read_text().splitlines() == [
            f"--context c --namespace rcarena port-forward --address 127.0.0.1 service/nginx-proxy {port}:8080 "
            "KUBECONFIG=/nowhere/config"
        ]

    def test_one_that_ends_is_opened_again(self, kubectl: Path) -> None:
        port = access._free_port()
        with open_forwards(OUTSIDE, (forward(port),)):
            os.kill(pids(kubectl)[0], signal.SIGKILL)
            until(lambda: len(pids(kubectl)) == 2 and is_up(LOCALHOST, port))

    def test_one_that_another_process_holds_is_shared_and_taken_over(self, kubectl: Path) -> None:
        port = access._free_port()
        with open_forwards(OUTSIDE, (forward(port),)):
            other = open_forwards(OUTSIDE, (forward(port),))
            other.__enter__()
            assert len(pids(kubectl)) == 1
        try:
            until(lambda: len(pids(kubectl)) == 2 and is_up(LOCALHOST, port))
        finally:
            other.__exit__(None, None, None)

    def test_end_with_a_process_that_is_killed(self, kubectl: Path) -> None:
        port = access._free_port()
        program = (
            "import time\n"
            "from tasks.deploy.kubernetes.access import open_forwards\n"
            "from tasks.kube.address import ClusterAddress\n"
            "from tasks.deploy.kubernetes.runtime import Forward\n"
            f"cluster, one = ClusterAddress(**{OUTSIDE.model_dump()!r}), Forward(**{forward(port).model_dump()!r})\n"
            "with open_forwards(cluster, (one,)):\n"
            "    print('open', flush=True)\n"
            "    time.sleep(60)\n"
        )
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        child.kill()
        child.wait()
        child.stdout.close()
        until(lambda: not is_up(LOCALHOST, port))

    def test_what_kubectl_says_is_the_error(self, kubectl: Path) -> None:
        (kubectl / "refuse").touch()
        with (
            pytest.raises(
                DeployError, match='no way to nginx-proxy in rcarena: error: services "nginx-proxy" not found'
            ),
            open_forwards(OUTSIDE, (forward(access._free_port()),)),
        ):
            pass

    def test_a_missing_kubectl_is_a_clear_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nonexistent")
        with (
            pytest.raises(DeployError, match=r"kubectl is missing.*deploy\.endpoints"),
            open_forwards(OUTSIDE, (forward(1),)),
        ):
            pass
