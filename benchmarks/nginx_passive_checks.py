"""How long NGINX's passive checks (`max_fails`) take to notice a broken upstream (Linux, root).

``python benchmarks/nginx_passive_checks.py [--seconds 90] [--timeout 15] [--read-timeout 60] [KIND …]`` starts, for
each kind and all at the same time, an NGINX with three upstreams (``max_fails=1 fail_timeout=10s``, its defaults; round
robin), each of which streams eight tokens in 0.2 s, breaks the second one for the given time, and prints a row: when
NGINX wrote that it takes the upstream out and how often, and how many requests failed, were slow, and were sent.
``--timeout``: when a client gives up; NGINX counts no failure then.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

RATE, SLOW_S, BEFORE_S = 4.0, 0.6, 8.0
TAKEN_OUT = "temporarily disabled"
CONFIGURATION = """daemon off; user root; worker_processes 1; pid {d}/pid; error_log {d}/error.log warn;
events {{ worker_connections 512; }}
http {{
  client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f;
  uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
  log_format to '$msec $upstream_addr'; access_log {d}/access.log to;
  upstream all {{ {servers} }}
  server {{ listen 127.0.0.1:8080; location / {{
    proxy_pass http://all; proxy_buffering off; proxy_connect_timeout 5s; proxy_read_timeout {read_s}s; }} }}
}}
"""
SERVER = """import http.server, sys, time
class Stream(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        for _ in range(8):
            time.sleep(float(open(sys.argv[1]).read())); self.wfile.write(b"token "); self.wfile.flush()
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer.request_queue_size = 2048  # as uvicorn's
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Stream).serve_forever()
"""


@dataclass
class Site:
    """NGINX and its upstreams, each in a network namespace of its own; everything ends with this process."""

    directory: Path
    read_timeout_s: float
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    networks: list[list[str]] = field(default_factory=list)

    def start(self) -> None:
        for index in range(3):
            pace = self.directory / f"pace{index}"
            pace.write_text("0.025")
            keeper = self._start("unshare", "--net", "sleep", "infinity").pid  # the network outlives the server
            while Path(f"/proc/{keeper}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
                time.sleep(0.05)
            there = ["nsenter", "-t", str(keeper), "-n"]
            self.networks.append(there)
            run("ip", "link", "add", f"v{index}", "type", "veth", "peer", "name", "eth0", "netns", str(keeper))
            run("ip", "address", "add", f"10.9.{index}.1/24", "dev", f"v{index}")
            run("ip", "link", "set", f"v{index}", "up")
            run(*there, "ip", "address", "add", f"10.9.{index}.2/24", "dev", "eth0")
            run(*there, "ip", "link", "set", "eth0", "up")
            self.servers.append(self._start(*there, sys.executable, "-c", SERVER, str(pace)))
        servers = " ".join(f"server 10.9.{i}.2:8000 max_fails=1 fail_timeout=10s;" for i in range(3))
        text = CONFIGURATION.format(d=self.directory, servers=servers, read_s=round(self.read_timeout_s))
        (self.directory / "nginx.conf").write_text(text)
        self._start("nginx", "-p", str(self.directory), "-c", str(self.directory / "nginx.conf"))

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command], stderr=subprocess.DEVNULL)
        self.processes.append(started)
        return started

    def stop(self) -> None:
        for each in self.processes:
            each.kill()
            each.wait()


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def freeze(site: Site) -> None:
    site.servers[1].send_signal(signal.SIGSTOP)


def kill(site: Site) -> None:
    site.servers[1].kill()


def partition(site: Site) -> None:
    """What is sent there vanishes: its own end of the link is down, and the address stays known."""
    there = site.networks[1]
    shown = subprocess.run([*there, "ip", "-o", "link", "show", "eth0"], check=True, capture_output=True, text=True)
    address = shown.stdout.partition("link/ether ")[2][:17]
    run("ip", "neigh", "replace", "10.9.1.2", "lladdr", address, "nud", "permanent", "dev", "v1")
    run(*there, "ip", "address", "flush", "dev", "eth0")


def slow(factor: float) -> Callable[[Site], None]:
    def slower(site: Site) -> None:
        (site.directory / "pace1").write_text(f"{0.025 * factor:g}")

    return slower


KINDS: dict[str, Callable[[Site], None]] = {
    "process-kill": kill,
    "process-freeze": freeze,
    "network-partition": partition,
    "accelerator-throttle": slow(8),
    "engine-stall": slow(1e6),
}
"""A throttled upstream takes eight times as long; a stalled one answers its headers and then no token."""


def ask(at: float, timeout_s: float) -> tuple[float, bool]:
    """Send a request when it is due; return seconds until its last byte, and whether it came."""
    time.sleep(max(0.0, at - time.time()))
    try:
        with urllib.request.urlopen("http://127.0.0.1:8080/", timeout=timeout_s) as answer:
            whole = len(answer.read()) == 48
        return time.time() - at, whole
    except (OSError, http.client.HTTPException):
        return time.time() - at, False


def measure(kind: str, seconds: float, timeout_s: float, read_timeout_s: float) -> str:
    """Return the row of a kind; runs in a network namespace of its own."""
    run("ip", "link", "set", "lo", "up")
    directory = Path(tempfile.mkdtemp(prefix="passive-"))
    site = Site(directory, read_timeout_s)
    try:
        site.start()
        while not all(ask(time.time(), 5)[1] for _ in range(3)):
            time.sleep(0.5)
        begin = time.time()
        broken = begin + BEFORE_S
        with concurrent.futures.ThreadPoolExecutor(256) as pool:
            due = [begin + i / RATE for i in range(round((BEFORE_S + seconds) * RATE))]
            answers = [pool.submit(ask, at, timeout_s) for at in due]
            time.sleep(max(0.0, broken - time.time()))
            KINDS[kind](site)
            found = [each.result() for each in answers]
        after = [result for at, result in zip(due, found, strict=True) if at >= broken]
        failed = sum(not whole for _, whole in after)
        late = sum(whole and took > SLOW_S for took, whole in after)
        lines = (directory / "error.log").read_text(errors="replace").splitlines()
        taken_out = (_seconds(line) - broken for line in lines if TAKEN_OUT in line)
        noticed = [each for each in taken_out if each > -1]  # whole seconds; servers start long before
        first = f"after {max(0.0, noticed[0]):.0f} s, {len(noticed)} times" if noticed else "never"
        return f"| `{kind}` | {first} | {failed} | {late} | {len(after)} |"
    finally:
        site.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _seconds(line: str) -> float:
    return time.mktime(time.strptime(line[:19], "%Y/%m/%d %H:%M:%S"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--timeout", type=float, default=15)
    parser.add_argument("--read-timeout", type=float, default=60)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if unknown := set(asked.kinds) - set(KINDS):
        parser.error(f"unknown kind {', '.join(sorted(unknown))}; allowed: {', '.join(KINDS)}")
    if asked.here:
        print(measure(asked.kinds[0], asked.seconds, asked.timeout, asked.read_timeout))
        return
    if os.geteuid() != 0:
        parser.error("it needs root, for network namespaces")
    print("| kind | NGINX takes the upstream out | failed | slow | requests |")
    print("|---|---|---|---|---|", flush=True)
    options = [
        "--here",
        f"--seconds={asked.seconds}",
        f"--timeout={asked.timeout}",
        f"--read-timeout={asked.read_timeout}",
    ]
    apart = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", sys.executable, __file__, *options]
    running = [subprocess.Popen([*apart, kind]) for kind in asked.kinds or KINDS]
    sys.exit(max(each.wait() for each in running))


if __name__ == "__main__":
    main()
