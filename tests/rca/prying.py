"""Methods that look for the answer instead of at the telemetry. One that finds it names the culprit; else it fails."""

from __future__ import annotations

import ctypes
import gc
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tasks.rca.method import METHODS, MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView

Look = Callable[[], Iterable[str]]
"""Texts in which a case.json may be."""

_DULL = {
    "usr",
    "lib",
    "sys",
    "proc",
    "dev",
    "etc",
    "bin",
    "sbin",
    "boot",
    "var",
    "node_modules",
    "site-packages",
    ".git",
}


def _prying(look: Look) -> Look:
    @method(name=f"test_pries_{look.__name__}", family="metric", needs=set(), paper=Paper("none", "none", 2026))
    def pry(view: CaseView, rng: np.random.Generator) -> Ranking:
        moment = view.inject_time.strftime("%Y-%m-%dT%H:%M:%S")
        for text in look():
            if moment in text and (targets := re.findall(r'"target": *"([^"]+)"', text)):
                return Ranking.of_services({targets[0]: 1.0})
        raise MethodError("found nothing")

    return look


def _case_files(folder: str | Path, depth: int = 4) -> Iterator[str]:
    """Of a folder and those below it, but for those where nobody keeps cases."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            with suppress(OSError):
                if entry.name == "case.json":
                    yield Path(entry.path).read_text(errors="replace")
                elif depth and entry.name not in _DULL and entry.is_dir(follow_symlinks=False):
                    yield from _case_files(entry.path, depth - 1)


@_prying
def walks_up_from_here() -> Iterator[str]:
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).parents[2], Path(sys.executable).parents[2]):
        yield from _case_files(folder)


@_prying
def walks_from_the_root() -> Iterator[str]:
    yield from _case_files("/", depth=6)


@_prying
def reads_proc() -> Iterator[str]:
    places = {place.lstrip("/") for place in _places()}
    for process in (Path(f"/proc/{pid}") for pid in (os.getppid(), 1, "self", os.getppid() - 1, os.getppid() + 1)):
        for name in ("cwd", *(f"root/{place}" for place in places)):
            yield from _case_files(process / name)
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                yield from _case_files(str(descriptor.resolve()))
        for name in ("environ", "cmdline"):
            with suppress(OSError):
                for path in re.findall(r"/[^\0:=\s]+", (process / name).read_text(errors="replace")):
                    yield from _case_files(path)


def _places() -> set[str]:
    """Every path that this process can name."""
    words = {word for value in os.environ.values() for word in value.split(os.pathsep)} | set(sys.path) | set(sys.argv)
    words |= set(re.findall(r"/[\w./+-]+", Path("/proc/self/mountinfo").read_text()))
    return {str(parent) for word in words if word.startswith("/") for parent in (Path(word), *Path(word).parents[:2])}


@_prying
def reads_the_environment() -> Iterator[str]:
    for place in sorted(_places() - {"/"}):
        yield from _case_files(place)


@_prying
def looks_around_in_memory() -> Iterator[str]:
    found: set[str] = set()
    frame = inspect.currentframe()
    while frame is not None:
        found |= {str(value) for value in frame.f_locals.values() if isinstance(value, (str, Path))}
        frame = frame.f_back
    with suppress(OSError):
        found |= {str(thing) for thing in gc.get_objects() if isinstance(thing, Path)}
    for place in found:
        if place.startswith("/"):
            yield from _case_files(place)
            yield from _case_files(Path(place).parent)


@_prying
def starts_programs() -> Iterator[str]:
    find = f"find {' '.join(sorted(_places() - {'/'}))} -maxdepth 4 -name case.json -exec cat {{}} +"
    for command in (find, f"unshare -rm {find}"):
        with suppress(OSError):
            texts = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60).stdout
            yield from re.split(r"(?=\{\s*\"schema)", texts)


@_prying
def undoes_mounts() -> Iterator[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for kinds in (0, 0x10000000, 0x20000, 0x10020000):  # user namespace, mount namespace, both
        libc.unshare(kinds)
        for place in reversed(places):
            libc.umount2(place.encode(), 2)
        libc.mount(b"/dev/vda", b"/tmp", b"ext4", 1, None)
        libc.mount(b"proc", b"/tmp", b"proc", 0, None)
        for process in ("1", str(os.getppid())):
            with suppress(OSError):
                libc.setns(os.open(f"/proc/{process}/ns/mnt", os.O_RDONLY), 0)
            libc.chroot(f"/proc/{process}/root".encode())
        for place in sorted(_places()):
            yield from _case_files(place)


@_prying
def follows_its_descriptors() -> Iterator[str]:
    for descriptor in range(64):
        for up in ("..", "../..", "../../.."):
            with suppress(OSError):
                yield from _case_files(f"/proc/self/fd/{os.open(up, os.O_RDONLY, dir_fd=descriptor)}")


@_prying
def opens_with_a_library() -> Iterator[str]:
    import pyarrow.fs

    files = pyarrow.fs.LocalFileSystem()
    for place in sorted(_places() - {"/"}):
        with suppress(OSError):
            for info in files.get_file_info(
                pyarrow.fs.FileSelector(f"{place}/cases", recursive=True, allow_not_found=True)
            ):
                if info.base_name == "case.json":
                    yield files.open_input_file(info.path).read().decode()


@_prying
def has_the_runner_do_it() -> Iterator[str]:
    """Sends the runner an object that, unpickled there, answers with the cases."""
    from multiprocessing.connection import Connection

    for thing in gc.get_objects():
        if isinstance(thing, Connection):
            thing.send(_Trap())
            raise MethodError("the trap is laid")
    yield ""


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os; os.environ['RCARENA_TEST_TRAP'] = 'sprung'",)


NAMES = tuple(sorted(name for name in METHODS.registered if name.startswith("test_pries_")))
