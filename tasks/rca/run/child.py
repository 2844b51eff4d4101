"""Child Python processes that answer messages over a socket and end with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import io
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from tasks.errors import RCArenaError
from tasks.rca.run.sandbox import Level, enter

START_TIMEOUT_S = 120.0
MIB = 2**20
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_ERRORS_KEPT = 4000
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
_DATA_LIMIT_FACTOR = 2
_DATA_LIMIT_SLACK_MB = 512
_clear_references: int | None = None


class RunnerError(RCArenaError):
    """The processes that run the pairs do not work, so the campaign cannot be scored."""


@dataclass(frozen=True)
class Confinement:
    """How a child is confined (:mod:`tasks.rca.run.sandbox`).

    ``paths``: what it may read. ``hidden``: paths that its environment must not contain either. ``scratch``: an empty
    folder. ``levels``: the levels to try. ``memory_mb``: its memory limit.
    """

    paths: tuple[str, ...]
    hidden: tuple[str, ...]
    scratch: str
    levels: tuple[Level, ...]
    memory_mb: int


@dataclass(frozen=True)
class Hello:
    """The first message to a child: the module whose ``main`` answers, and its confinement, if any."""

    module: str
    parent_pid: int
    confinement: Confinement | None = None


@dataclass(frozen=True)
class Ready:
    """The first message of a child: it takes requests now. ``level``: how it is confined."""

    level: Level | None = None


class Child:
    """The parent's side of a child process that runs ``main`` of ``module``.

    ``answers`` are the classes that the child's messages may contain. Nothing else is unpickled, since a child that
    runs somebody's method could send anything.
    """

    def __init__(self, module: str, answers: tuple[type, ...], confinement: Confinement | None = None) -> None:
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        self._answers = {(known.__module__, known.__qualname__): known for known in (Ready, *answers)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from tasks.rca.run.child import start; start()", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=_environment(confinement),
            )
        self.connection = Connection(ours.detach())
        self.alive = True
        with contextlib.suppress(OSError):  # it died at once; whoever asks it for something will see
            self.connection.send(Hello(module, os.getpid(), confinement))

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self.alive and self._process.poll() is None

    def receive(self) -> Any:
        """Return the next message.

        Raises:
            EOFError, OSError: the child has ended.
            pickle.UnpicklingError: it sent something that is no answer.
        """
        return _AnswerUnpickler(self.connection.recv_bytes(), self._answers).load()

    def ending(self) -> str:
        """Describe how a process that no longer answers ended."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def errors(self) -> str:
        """Return the end of what the process wrote to its standard error."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _ERRORS_KEPT))
        return self._stderr.read().decode(errors="replace").strip()

    def kill(self) -> None:
        """End the process and its process group. Safe to call twice."""
        if self.alive:
            self.alive = False
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self.connection.close()
            self._stderr.close()


class _AnswerUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, known: Mapping[tuple[str, str], type]) -> None:
        super().__init__(io.BytesIO(data))
        self._known = known

    def find_class(self, module: str, name: str) -> type:
        try:
            return self._known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an answer") from None


def _environment(confinement: Confinement | None) -> dict[str, str]:
    """Return the child's environment: ours, and for a confined child without variables that contain hidden paths."""
    ours = dict(os.environ)
    if confinement is not None:
        for name in set(ours) - {"PATH", "LD_LIBRARY_PATH"}:
            if name in ("PWD", "OLDPWD", "_") or any(path in ours[name] for path in confinement.hidden):
                del ours[name]
    return ours | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def start() -> None:
    """Run a child: confine it, send :class:`Ready`, answer messages. From here on it ends with its parent."""
    faulthandler.enable()
    connection = Connection(int(sys.argv[1]))
    hello: Hello = connection.recv()
    level = None
    if hello.confinement is not None:
        level = _confine(hello.confinement)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != hello.parent_pid:
        os._exit(1)
    main = importlib.import_module(hello.module).main
    connection.send(Ready(level))
    main(connection)


def reset_peak_memory() -> None:
    """Reset the kernel's peak of resident memory, where that is allowed; else the peak so far stays."""
    if _clear_references is not None:
        os.write(_clear_references, b"5")


def _confine(confinement: Confinement) -> Level:
    global _clear_references
    with contextlib.suppress(OSError):
        _clear_references = os.open("/proc/self/clear_refs", os.O_WRONLY)  # later it could not be opened
    if sys.platform == "linux":  # what the method's own children leave behind stays below this process
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    level = enter(confinement.paths, confinement.scratch, confinement.levels)
    # The runner watches the resident size; this stops one allocation that would outrun it.
    data_limit = (_DATA_LIMIT_FACTOR * confinement.memory_mb + _DATA_LIMIT_SLACK_MB) * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return level
