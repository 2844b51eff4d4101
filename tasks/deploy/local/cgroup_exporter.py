"""Prometheus exporter of cgroup and network figures per service, under cAdvisor's names.

``python -m tasks.deploy.local.cgroup_exporter --listen 127.0.0.1:9101 --services services.json [--withheld DIR]``

The services file is read again whenever it changes::

    {"services": [{"name": "ray-head", "cgroups": {"cpu": DIR, "cpuacct": DIR, "memory": DIR, "pids": DIR}},
                  {"name": "ray-replicas-0", "cgroups": {"unified": DIR}, "interface": "eth0"}]}

``unified`` is a cgroup v2 directory, the others are v1 controllers. A service whose cgroup is gone or holds no process
gives no samples: zeros would read as an idle service. Neither does one for which ``DIR`` holds a file of its name: its
telemetry is lost on purpose.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

COUNTERS = (
    "container_cpu_usage_seconds_total",
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_memory_failcnt",
    "container_network_receive_bytes_total",
    "container_network_receive_packets_total",
    "container_network_receive_errors_total",
    "container_network_receive_packets_dropped_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_packets_total",
    "container_network_transmit_errors_total",
    "container_network_transmit_packets_dropped_total",
)
GAUGES = (
    "container_spec_cpu_quota",
    "container_spec_cpu_period",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_memory_rss",
    "container_spec_memory_limit_bytes",
    "container_processes",
    "container_threads",
)
_NETWORK_FIELDS = ("bytes", "packets", "errors", "packets_dropped")
_UNLIMITED_MEMORY = 2**62
"""A v1 memory limit at or above this is the kernel's way to say that there is none."""
_PIDS_TRIED_FOR_NETWORK = 8

Readings = dict[str, float]


class ServicesFileError(ValueError):
    """The services file cannot be read or does not have the expected form."""


@dataclass(frozen=True)
class ServiceCgroups:
    """The cgroup directories of one service: ``unified`` (v2) or the v1 controllers."""

    name: str
    cgroups: dict[str, Path]
    interface: str = "eth0"

    @property
    def unified(self) -> Path | None:
        return self.cgroups.get("unified")

    @property
    def any_directory(self) -> Path:
        """The directory whose ``cgroup.procs`` tells who belongs to the service."""
        return self.cgroups.get("pids") or self.cgroups.get("cpu") or next(iter(self.cgroups.values()))


def load_services(file: Path) -> tuple[ServiceCgroups, ...]:
    """Read the services file.

    Raises:
        ServicesFileError: unreadable, not JSON, or a service lacks ``name`` or ``cgroups``.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ServicesFileError(f"{file}: cannot be read: {error}") from error
    entries = document.get("services") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ServicesFileError(f"{file}: must be an object with the list 'services'")
    return tuple(_service(file, i, entry) for i, entry in enumerate(entries))


def _service(file: Path, index: int, entry: Any) -> ServiceCgroups:
    where = f"{file}: services[{index}]"
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ServicesFileError(f"{where}: 'name' is missing")
    cgroups = entry.get("cgroups")
    if not isinstance(cgroups, dict) or not cgroups:
        raise ServicesFileError(f"{where}: 'cgroups' is missing; give 'unified' or cpu, cpuacct, memory, pids")
    return ServiceCgroups(
        entry["name"], {name: Path(path) for name, path in cgroups.items()}, entry.get("interface", "eth0")
    )


def read_service(service: ServiceCgroups, proc: Path = Path("/proc")) -> Readings:
    """Read the current figures of a service: seconds, bytes, counts. Empty when it has no process left."""
    pids = list(_pids(service.any_directory))
    if not pids:
        return {}
    readings: Readings = {"container_processes": len(pids)}
    if service.unified:
        readings |= _cgroup_v2(service.unified)
    else:
        readings |= _cgroup_v1(service.cgroups)
    return readings | _network(pids, service.interface, proc)


def _cgroup_v1(cgroups: dict[str, Path]) -> Readings:
    readings: Readings = {}
    if cpu := cgroups.get("cpu"):
        stat = _flat_keyed(cpu / "cpu.stat")
        _set(readings, "container_cpu_cfs_periods_total", stat.get("nr_periods"))
        _set(readings, "container_cpu_cfs_throttled_periods_total", stat.get("nr_throttled"))
        _set(readings, "container_cpu_cfs_throttled_seconds_total", stat.get("throttled_time"), 1e-9)
        quota = _number(cpu / "cpu.cfs_quota_us")
        if quota is not None and quota > 0:
            readings["container_spec_cpu_quota"] = quota
        _set(readings, "container_spec_cpu_period", _number(cpu / "cpu.cfs_period_us"))
    if cpuacct := cgroups.get("cpuacct"):
        _set(readings, "container_cpu_usage_seconds_total", _number(cpuacct / "cpuacct.usage"), 1e-9)
    if memory := cgroups.get("memory"):
        stat = _flat_keyed(memory / "memory.stat")
        _memory(
            readings, _number(memory / "memory.usage_in_bytes"), stat.get("total_inactive_file"), stat.get("total_rss")
        )
        _set(readings, "container_memory_failcnt", _number(memory / "memory.failcnt"))
        limit = _number(memory / "memory.limit_in_bytes")
        if limit is not None and limit < _UNLIMITED_MEMORY:
            readings["container_spec_memory_limit_bytes"] = limit
    if pids := cgroups.get("pids"):
        _set(readings, "container_threads", _number(pids / "pids.current"))
    return readings


def _cgroup_v2(directory: Path) -> Readings:
    readings: Readings = {}
    stat = _flat_keyed(directory / "cpu.stat")
    _set(readings, "container_cpu_usage_seconds_total", stat.get("usage_usec"), 1e-6)
    _set(readings, "container_cpu_cfs_periods_total", stat.get("nr_periods"))
    _set(readings, "container_cpu_cfs_throttled_periods_total", stat.get("nr_throttled"))
    _set(readings, "container_cpu_cfs_throttled_seconds_total", stat.get("throttled_usec"), 1e-6)
    quota, _, period = _text(directory / "cpu.max").partition(" ")
    if quota.isdigit():
        readings["container_spec_cpu_quota"] = float(quota)
    if period.strip().isdigit():
        readings["container_spec_cpu_period"] = float(period)
    memory = _flat_keyed(directory / "memory.stat")
    _memory(readings, _number(directory / "memory.current"), memory.get("inactive_file"), memory.get("anon"))
    _set(readings, "container_memory_failcnt", _flat_keyed(directory / "memory.events").get("max"))
    _set(readings, "container_spec_memory_limit_bytes", _number(directory / "memory.max"))
    _set(readings, "container_threads", _number(directory / "pids.current"))
    return readings


def _memory(readings: Readings, usage: float | None, inactive_file: float | None, anonymous: float | None) -> None:
    _set(readings, "container_memory_usage_bytes", usage)
    if usage is not None and inactive_file is not None:
        readings["container_memory_working_set_bytes"] = max(0.0, usage - inactive_file)
    _set(readings, "container_memory_rss", anonymous)


def _set(readings: Readings, name: str, value: float | None, scale: float = 1.0) -> None:
    if value is not None:
        readings[name] = value * scale


def _network(pids: list[str], interface: str, proc: Path) -> Readings:
    """Read the interface figures in the network namespace of the service's processes."""
    for pid in pids[:_PIDS_TRIED_FOR_NETWORK]:
        for line in _text(proc / pid / "net" / "dev").splitlines():
            name, separator, figures = line.partition(":")
            if separator and name.strip() == interface:
                columns = [float(column) for column in figures.split()]
                received = dict(zip(_NETWORK_FIELDS, columns[0:4], strict=True))
                transmitted = dict(zip(_NETWORK_FIELDS, columns[8:12], strict=True))
                return {
                    f"container_network_{direction}_{field}_total": value
                    for direction, figures in (("receive", received), ("transmit", transmitted))
                    for field, value in figures.items()
                }
    return {}


def _pids(directory: Path) -> Iterator[str]:
    """Yield the pids of a cgroup and of those below it."""
    yield from _text(directory / "cgroup.procs").split()
    for below in _directories(directory):
        yield from _pids(below)


def _directories(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.is_dir()]
    except OSError:
        return []


def _text(file: Path) -> str:
    """Read a small kernel file; return an empty string when it is gone."""
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""


def _number(file: Path) -> float | None:
    text = _text(file).strip()
    return float(text) if text.lstrip("-").isdigit() else None


def _flat_keyed(file: Path) -> dict[str, float]:
    pairs = (line.split() for line in _text(file).splitlines())
    return {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def exposition(readings: dict[str, Readings]) -> str:
    """Render ``service -> readings`` in the Prometheus text format."""
    lines = []
    for kind, names in (("counter", COUNTERS), ("gauge", GAUGES)):
        for name in names:
            samples = [
                f'{name}{{service="{service}"}} {values[name]!r}'
                for service, values in readings.items()
                if name in values
            ]
            if samples:
                lines += [f"# TYPE {name} {kind}", *samples]
    return "\n".join(lines) + "\n"


class ServicesFile:
    """The services file, read again when its modification time changes; the last good content is kept.

    ``withheld``: directory of files named after the services to leave out.
    """

    def __init__(self, path: Path, withheld: Path | None = None) -> None:
        self._path = path
        self._withheld = withheld
        self._stamp: int | None = None
        self._services: tuple[ServiceCgroups, ...] = ()

    def services(self) -> tuple[ServiceCgroups, ...]:
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp != self._stamp:
                self._services = load_services(self._path)
                self._stamp = stamp
        except FileNotFoundError:
            self._services, self._stamp = (), None
        except ServicesFileError as error:
            log.warning("%s", error)
        if self._withheld is None:
            return self._services
        return tuple(each for each in self._services if not (self._withheld / each.name).exists())


def make_server(host: str, port: int, services: ServicesFile) -> ThreadingHTTPServer:
    """Return an HTTP server that answers ``GET /metrics``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/", "/metrics"):
                self.send_error(404)
                return
            body = exposition({service.name: read_service(service) for service in services.services()}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            log.debug(format, *arguments)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

    return Server((host, port), Handler)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cgroup_exporter", description="Export cgroup figures per service.")
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--services", required=True, type=Path, metavar="FILE")
    parser.add_argument("--withheld", type=Path, metavar="DIR")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    host, _, port = options.listen.rpartition(":")
    if not port.isdigit():
        parser.error(f"--listen: '{options.listen}' is not ADDRESS:PORT")
    try:
        server = make_server(host, int(port), ServicesFile(options.services, options.withheld))
    except (OSError, OverflowError) as error:
        log.error("%s: cannot be bound: %s", options.listen, error)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    log.info("serving cgroup figures on %s", options.listen)
    server.serve_forever(poll_interval=0.5)
    server.server_close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
