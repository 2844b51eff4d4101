from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tasks.deploy.local.cgroup_exporter import (
    ServiceCgroups,
    ServicesFile,
    ServicesFileError,
    exposition,
    load_services,
    make_server,
    read_service,
)
from tests.cgroups import own_name
from tests.waiting import until

NET_DEV = """Inter-|   Receive                            |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:     999    9 0 0 0 0 0 0   999  9 0 0 0 0 0 0
  eth0:    1000   10 1 2 0 0 0 0  2000 20 3 4 0 0 0 0
"""


def _write(directory: Path, files: dict[str, str]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    _write(tmp_path / "proc" / "11" / "net", {"dev": NET_DEV})
    return tmp_path / "proc"


@pytest.fixture
def v1(tmp_path: Path) -> ServiceCgroups:
    root = tmp_path / "v1"
    cgroups = {
        "cpu": _write(
            root / "cpu",
            {
                "cpu.stat": "nr_periods 100\nnr_throttled 40\nthrottled_time 2500000000\n",
                "cpu.cfs_quota_us": "60000\n",
                "cpu.cfs_period_us": "100000\n",
                "cgroup.procs": "11\n12\n",
            },
        ),
        "cpuacct": _write(root / "cpuacct", {"cpuacct.usage": "12500000000\n"}),
        "memory": _write(
            root / "memory",
            {
                "memory.usage_in_bytes": "1000000\n",
                "memory.stat": "inactive_file 1\ntotal_inactive_file 200000\ntotal_rss 700000\n",
                "memory.failcnt": "7\n",
                "memory.limit_in_bytes": "9223372036854771712\n",
            },
        ),
        "pids": _write(root / "pids", {"pids.current": "31\n", "cgroup.procs": "11\n12\n"}),
    }
    _write(root / "pids" / "stressor", {"cgroup.procs": "13\n"})
    return ServiceCgroups("ray-replicas-0", cgroups)


@pytest.fixture
def v2(tmp_path: Path) -> ServiceCgroups:
    files = {
        "cpu.stat": "usage_usec 12500000\nnr_periods 100\nnr_throttled 40\nthrottled_usec 2500000\n",
        "cpu.max": "60000 100000\n",
        "memory.current": "1000000\n",
        "memory.stat": "anon 700000\ninactive_file 200000\n",
        "memory.events": "low 0\nmax 7\noom 0\n",
        "memory.max": "2000000\n",
        "pids.current": "31\n",
        "cgroup.procs": "11\n12\n13\n",
    }
    return ServiceCgroups("ray-replicas-0", {"unified": _write(tmp_path / "v2", files)})


COMMON = {
    "container_processes": 3,
    "container_threads": 31,
    "container_cpu_usage_seconds_total": 12.5,
    "container_cpu_cfs_periods_total": 100,
    "container_cpu_cfs_throttled_periods_total": 40,
    "container_cpu_cfs_throttled_seconds_total": 2.5,
    "container_spec_cpu_quota": 60000,
    "container_spec_cpu_period": 100000,
    "container_memory_usage_bytes": 1e6,
    "container_memory_working_set_bytes": 8e5,
    "container_memory_rss": 7e5,
    "container_memory_failcnt": 7,
    "container_network_receive_bytes_total": 1000,
    "container_network_receive_packets_total": 10,
    "container_network_receive_errors_total": 1,
    "container_network_receive_packets_dropped_total": 2,
    "container_network_transmit_bytes_total": 2000,
    "container_network_transmit_packets_total": 20,
    "container_network_transmit_errors_total": 3,
    "container_network_transmit_packets_dropped_total": 4,
}


def test_v1_figures(v1: ServiceCgroups, proc: Path) -> None:
    assert read_service(v1, proc) == pytest.approx(COMMON)


def test_v2_figures(v2: ServiceCgroups, proc: Path) -> None:
    assert read_service(v2, proc) == pytest.approx(COMMON | {"container_spec_memory_limit_bytes": 2e6})


def test_no_quota_is_no_sample(v1: ServiceCgroups, v2: ServiceCgroups, proc: Path) -> None:
    (v1.cgroups["cpu"] / "cpu.cfs_quota_us").write_text("-1\n")
    (v2.cgroups["unified"] / "cpu.max").write_text("max 100000\n")
    (v2.cgroups["unified"] / "memory.max").write_text("max\n")
    for service in (v1, v2):
        readings = read_service(service, proc)
        assert "container_spec_cpu_quota" not in readings
        assert "container_spec_memory_limit_bytes" not in readings
        assert readings["container_spec_cpu_period"] == 100000


def test_service_without_processes_gives_no_samples(v2: ServiceCgroups, proc: Path) -> None:
    (v2.cgroups["unified"] / "cgroup.procs").write_text("")
    assert read_service(v2, proc) == {}


def test_vanished_service_gives_no_samples(tmp_path: Path, proc: Path) -> None:
    assert read_service(ServiceCgroups("gone", {"unified": tmp_path / "gone"}), proc) == {}


def test_exposition_is_valid_prometheus_text(v1: ServiceCgroups, proc: Path) -> None:
    text = exposition({"ray-replicas-0": read_service(v1, proc), "gone": {}})
    families = {family.name: family for family in text_string_to_metric_families(text)}
    sample = families["container_cpu_usage_seconds"].samples[0]
    assert (sample.labels, sample.value) == ({"service": "ray-replicas-0"}, 12.5)
    assert families["container_spec_cpu_quota"].type == "gauge"
    assert sum(len(family.samples) for family in families.values()) == len(COMMON)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "must be an object with the list 'services'"),
        ('{"services": [{}]}', r"services[0]: 'name' is missing"),
        ('{"services": [{"name": "a"}]}', r"services[0]: 'cgroups' is missing"),
    ],
)
def test_bad_services_file_names_the_problem(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "services.json"
    file.write_text(text)
    with pytest.raises(ServicesFileError, match=re.escape(message)):
        load_services(file)


def test_services_file_is_followed_and_a_bad_version_keeps_the_last(tmp_path: Path) -> None:
    file = tmp_path / "services.json"
    services = ServicesFile(file)
    assert services.services() == ()
    file.write_text(json.dumps({"services": [{"name": "a", "cgroups": {"unified": "/x"}}]}))
    assert [service.name for service in services.services()] == ["a"]
    file.write_text("{")
    os.utime(file, ns=(1, 1))
    assert [service.name for service in services.services()] == ["a"]
    file.unlink()
    assert services.services() == ()


def test_http_answers_metrics_only(tmp_path: Path, v2: ServiceCgroups) -> None:
    (v2.cgroups["unified"] / "cgroup.procs").write_text(f"{os.getpid()}\n")
    file = tmp_path / "services.json"
    file.write_text(json.dumps({"services": [{"name": "a", "cgroups": {"unified": str(v2.cgroups["unified"])}}]}))
    server = make_server("127.0.0.1", 0, ServicesFile(file))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_address[1]}"
        with urllib.request.urlopen(f"{base}/metrics", timeout=10) as answer:
            assert b'container_cpu_usage_seconds_total{service="a"} 12.5' in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{base}/other", timeout=10)
    finally:
        server.shutdown()
        server.server_close()


V1_ROOT = Path("/sys/fs/cgroup/cpuacct")
V2_ROOT = Path("/sys/fs/cgroup/cgroup.controllers")


@pytest.mark.privileged
def test_real_cgroup_shows_the_cpu_time_that_a_process_burns() -> None:
    if not (V1_ROOT.is_dir() or V2_ROOT.is_file()):
        pytest.skip("no cgroup with a CPU controller on this machine")
    name = own_name()
    base = Path("/sys/fs/cgroup")
    v1 = V1_ROOT.is_dir()
    directories = {c: base / c / name for c in ("cpu", "cpuacct", "memory", "pids")} if v1 else {"unified": base / name}
    burner = None
    try:
        for directory in directories.values():
            directory.mkdir()
        burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for directory in directories.values():
            (directory / "cgroup.procs").write_text(f"{burner.pid}\n")
        service = ServiceCgroups("burner", directories, interface="lo")
        burnt = "container_cpu_usage_seconds_total"
        before = read_service(service)[burnt]
        until(lambda: read_service(service)[burnt] > before + 0.05, "the process burns no CPU time")
        after = read_service(service)
        assert after["container_processes"] == 1
        assert after["container_memory_usage_bytes"] >= after["container_memory_working_set_bytes"] > 0
        assert "container_network_receive_bytes_total" in after
    finally:
        if burner is not None:
            burner.kill()
            burner.wait()
        for directory in directories.values():
            for _ in range(50):
                try:
                    directory.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)
    assert read_service(service) == {}
