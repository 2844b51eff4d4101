"""The processes of the miniature stack: ``supervisor SPEC`` (init of the fabric) and ``service BUSY …`` (a server)."""

import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

PORT = 8000
METRICS = b"ray_node_mem_used 1\nnginx_connections_active 1\n"


def supervise(spec: dict) -> None:
    from tasks.deploy.local.namespaces import build_network

    build_network(spec["addresses"])
    running: dict[int, str] = {}
    for argv in spec["telemetry"]:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name in spec["addresses"]:
        running[start(spec, name)] = name
    print("ready", flush=True)
    while True:
        pid, _ = os.wait()
        name = running.pop(pid, None)
        if name is not None:
            time.sleep(0.2)
            running[start(spec, name)] = name


def start(spec: dict, name: str) -> int:
    join = 'while [ "$1" != -- ]; do echo 0 > "$1"; shift; done; shift; exec "$@"'
    argv = ["sh", "-ec", join, "sh", *spec["members"][name], "--", "ip", "netns", "exec", name]
    argv += [sys.executable, "-I", "-S", __file__, "service", str(spec["busy"].get(name, 0))]
    argv += [spec["engines"].get(name, ""), str(spec["metrics_ports"][name]), f"{spec['bursts']}/{name}"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL).pid


def serve(busy: float, engine: str, metrics_port: int, bursts: str) -> None:
    """For each 8-byte big-endian number received, send that many bytes.

    ``busy``: share of a core to burn. ``engine``: title of a child that only waits for the end of this process.
    ``metrics_port``: where ``METRICS`` are. ``bursts``: file for what ``busy`` computes.
    """
    if engine:
        wait = [engine, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
        child = subprocess.Popen(wait, executable=sys.executable, stdin=subprocess.PIPE)  # noqa: F841 (its pipe is open)
    if busy:
        threading.Thread(target=burn, args=(busy, bursts), daemon=True).start()
    threading.Thread(target=expose, args=(metrics_port,), daemon=True).start()
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("0.0.0.0", PORT), backlog=64)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    try:
        while header := connection.recv(8, socket.MSG_WAITALL):
            connection.sendall(pattern(int.from_bytes(header, "big")))
    except OSError:
        pass
    finally:
        connection.close()


def expose(port: int) -> None:
    listener = socket.create_server(("0.0.0.0", port))
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.recv(4096)
                connection.sendall(head % len(METRICS) + METRICS)
            except OSError:
                continue


def pattern(size: int) -> bytes:
    """Bytes whose place can be told: a 32-bit counter."""
    words = b"".join(i.to_bytes(4, "big") for i in range(4096))
    return (words * (size // len(words) + 1))[:size]


def burn(share: float, bursts: str) -> None:
    with Path(bursts).open("a", buffering=1) as file:
        while True:
            began, start = time.monotonic(), time.thread_time()
            while time.thread_time() - start < 0.05 * share:
                pass
            file.write(f"{time.time_ns()} {time.monotonic() - began}\n")
            time.sleep(0.05 * (1 - share))


if __name__ == "__main__":
    if sys.argv[1] == "supervisor":
        supervise(json.loads(sys.argv[2]))
    else:
        serve(float(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])
