"""Child Python processes that answer messages over a socket, and end with the process that started them."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection

READY = "ready"
START_TIMEOUT_S = 120.0
_PR_SET_PDEATHSIG = 1
_ERRORS_KEPT = 4000
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")


class RunnerError(RuntimeError):
    """The processes that run the pairs cannot do their work: the campaign cannot be scored."""


@dataclass(frozen=True)
class Hello:
    """The first message to a child. ``memory_mb``: its limit, if it has one."""

    parent_pid: int
    memory_mb: int | None = None


class Child:
    """A child process that runs ``module``'s ``main``: the side of the one that started it."""

    def __init__(self, module: str, memory_mb: int | None = None) -> None:
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {module} import main; main()", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        self.connection = Connection(ours.detach())
        self.alive = True
        with contextlib.suppress(OSError):  # it died at once; whoever asks it for something will see
            self.connection.send(Hello(os.getpid(), memory_mb))

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self.alive and self._process.poll() is None

    def ending(self) -> str:
        """How a process that no longer answers ended."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def errors(self) -> str:
        """The end of what the process wrote to its standard error."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _ERRORS_KEPT))
        return self._stderr.read().decode(errors="replace").strip()

    def kill(self) -> None:
        """End the process and what it started. Safe to call twice."""
        if self.alive:
            self.alive = False
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self.connection.close()
            self._stderr.close()


def answer_parent() -> tuple[Connection, Hello]:
    """In a child: the connection to the parent, and what it said first. From now on the child ends with the parent."""
    faulthandler.enable()
    connection = Connection(int(sys.argv[1]))
    hello: Hello = connection.recv()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != hello.parent_pid:
        os._exit(1)
    return connection, hello
