"""Confines a process that runs methods: it can read Python and the code it runs, and nothing else of the machine.

What may be read is a list (:func:`visible_paths`); a workspace, its cases and copies of them are not on it. Of three
levels the strongest that the machine allows is taken:

``namespace``
    The process gets a file system of its own that holds only the listed paths, read-only, and an empty working
    directory; then it gives up every capability with which it could undo that. As root, or in a user namespace.
``landlock``
    The kernel refuses to open or list anything else (Linux 5.13 and later; needs no privileges). Whether a path exists,
    its size and its times can still be asked.
``audit``
    The interpreter refuses to open or list anything else and to start programs. It stops what is written in Python, not
    code that opens files by itself.

Only the standard library is imported here, so that the process is confined before anything else runs in it. Paths are
plain strings: of two file systems at a time.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

Level = Literal["namespace", "landlock", "audit"]
LEVELS: tuple[Level, ...] = ("namespace", "landlock", "audit")
MEANING: dict[Level, str] = {
    "namespace": "in a file system of their own, without the workspace",
    "landlock": "confined by Landlock: they cannot open or list the workspace, only ask whether a path exists",
    "audit": "behind an audit hook alone: Python code cannot open the workspace, a library's own code could; "
    "this machine allows neither mount namespaces nor Landlock",
}

_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/sys/devices/system/cpu"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime"),
    *("/etc/timezone", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts", "/etc/resolv.conf"),
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_STAGE = "/tmp"
"""The file system is put together below it; it is in the way of nothing, as what is there stays reachable."""

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_MOUNT_FLAGS = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}
"""What ``statvfs`` says of a mount, and the same for ``mount``: a user namespace may add to them, not take away."""
_CLONE_NEWNS, _CLONE_NEWUSER, _MNT_DETACH = 0x20000, 0x10000000, 2
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 24, 47, 4
_CAPABILITY_VERSION, _CAP_DAC_OVERRIDE, _CAPABILITIES = 0x20080522, 1, 64
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_FILE, _LANDLOCK_DIRECTORY = 0b101, 0b1101  # execute, read file; and read directory
_LANDLOCK_WRITE_FILE = 0b10


class SandboxError(OSError):
    """The process cannot be confined."""


def visible_paths(hidden: Iterable[str], packages: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the files and folders (with all below) that a process which runs methods may read: the system's programs
    and libraries, Python's, the modules that this process has imported, and ``packages``.

    A folder that holds something ``hidden``, or a mount, is replaced by its other contents, so that nothing hidden can
    be reached, neither by a link nor by a mount.
    """
    roots = _existing([*_SYSTEM, *_python(), *_importable(), *_locations(packages), *_library_folders()])
    secret = {each for path in hidden for each in (os.path.abspath(path), os.path.realpath(path))}
    secret = {path for path in secret if not any(_is_in(root, path) and root != path for root in roots)}
    secret |= _aliases(secret, roots)
    secret |= {point for point in _mount_points() if any(_is_in(point, root) and point != root for root in roots)}
    listed = {path for root in roots for path in _without(root, secret)}
    return tuple(sorted(path for path in listed if not any(_is_in(path, other) for other in listed - {path})))


def _existing(paths: Iterable[str]) -> set[str]:
    return {each for path in paths if os.path.exists(path) for each in (os.path.abspath(path), os.path.realpath(path))}


def _python() -> list[str]:
    return [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, sys.executable]


def _importable() -> list[str]:
    """Return what can be imported by ``sys.path``. A folder that is not made for packages, such as a checkout with its
    workspace, contributes only its modules and packages."""
    found = []
    for entry in map(os.path.abspath, filter(None, sys.path)):
        if not os.path.isdir(entry) or os.path.basename(entry) in ("site-packages", "dist-packages"):
            found.append(entry)
        else:
            with suppress(OSError):
                found += [file.path for file in os.scandir(entry) if _is_module(file)]
    return found


def _is_module(file: os.DirEntry[str]) -> bool:
    if file.name.endswith((".py", ".so", ".dist-info", ".egg-info")):
        return True
    return os.path.isfile(os.path.join(file.path, "__init__.py"))


def _locations(packages: Iterable[str]) -> list[str]:
    """Return where ``packages`` and all that this process has imported lie, however they are found."""
    found: list[str] = []
    for package in {name.partition(".")[0] for name in (*packages, *sys.modules)} - {"__main__"}:
        with suppress(ImportError, ValueError):  # no such package, or one without a specification
            spec = importlib.util.find_spec(package)
            if spec is not None:
                found += spec.submodule_search_locations or ([str(spec.origin)] if spec.has_location else [])
    return found


def _library_folders() -> list[str]:
    return [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if os.path.isabs(path)]


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _aliases(secret: Iterable[str], roots: Iterable[str]) -> set[str]:
    """Return where secret paths lie below roots that are other names (bind mounts) of folders around them."""
    by_identity: dict[tuple[int, int] | None, list[str]] = {}
    for root in roots:
        by_identity.setdefault(_identity(root), []).append(root)
    around = {parent: _identity(str(parent)) for path in secret for parent in (Path(path), *Path(path).parents)}
    return {
        str(Path(root, Path(path).relative_to(parent)))
        for path in secret
        for parent in (Path(path), *Path(path).parents)
        if around[parent] is not None
        for root in by_identity.get(around[parent], ())
    }


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _mount_points() -> set[str]:
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    return {re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4]) for line in lines}


def _without(path: str, secret: set[str]) -> list[str]:
    """Return ``path``, or all in it that is not secret."""
    real = os.path.realpath(path)
    if any(_is_in(path, each) or _is_in(real, each) for each in secret):
        return []
    inside = {each for each in secret if _is_in(each, path)}
    if not inside:
        return [] if real != path and any(_is_in(each, real) for each in secret) else [path]
    try:
        return [found for file in os.scandir(path) for found in _without(file.path, secret)]
    except OSError:
        return []


def enter(paths: Sequence[str], scratch: str, levels: Sequence[Level]) -> Level:
    """Confine this process to ``paths`` and an empty working directory; return the level that was reached.

    ``levels``: those to try, strongest first. ``scratch``: an empty folder, for levels that need one.

    Raises:
        SandboxError: none of the levels can be had.
    """
    confine: dict[Level, Callable[[Sequence[str], str], None]] = {
        "namespace": _enter_namespace,
        "landlock": _enter_landlock,
        "audit": _enter_audit,
    }
    for level in levels:
        if level == "audit" or len(levels) == 1 or _can(lambda to=level: confine[to](paths, scratch)):  # type: ignore[misc]
            confine[level](paths, scratch)
            return level
    raise SandboxError(f"this machine allows none of: {', '.join(levels)}")


def _can(what: Callable[[], None]) -> bool:
    """Tell whether ``what`` works, by trying it in a forked process: a half-done attempt could not be undone."""
    if not sys.platform.startswith("linux"):
        return False
    pid = os.fork()
    if pid == 0:
        try:
            what()
            os._exit(0)
        except BaseException:  # noqa: BLE001 (this process must end here, whatever it was)
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _enter_namespace(paths: Sequence[str], scratch: str) -> None:
    libc = _libc()
    sources = {path: os.path.realpath(path) for path in paths}
    in_user_namespace = not _unshare_as_root(libc)
    _mount(libc, None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount(libc, "tmpfs", _STAGE, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=64m")
    os.chdir(_STAGE)
    os.mkdir("old")
    os.mkdir("new")
    _check(libc.pivot_root(b".", b"old"), "pivot_root")
    os.chdir("/")
    _mount(libc, "tmpfs", "/new", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=64m")
    for folder in ("/tmp", "/dev/shm"):
        os.makedirs(f"/new{folder}")
        _mount(libc, "tmpfs", f"/new{folder}", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777,size=25%")
    for path, source in sources.items():
        _bind(libc, source, path)
        _make_read_only(libc, path)
    for path in _DEVICES:
        _bind(libc, path, path)
    _bind(libc, "/proc", "/proc", _MS_REC)  # what it tells of a process it tells those only who may trace it
    _make_read_only(libc, "/proc")
    _check(libc.umount2(b"/old", _MNT_DETACH), "umount2")
    os.chdir("/new")
    _check(libc.pivot_root(b".", b"."), "pivot_root")
    _check(libc.umount2(b".", _MNT_DETACH), "umount2")
    _work_in("/tmp")
    _drop_privileges(libc, keep=() if in_user_namespace else (_CAP_DAC_OVERRIDE,))


def _unshare_as_root(libc: Any) -> bool:
    """Get a mount namespace. Returns False if that takes a user namespace too, in which the user keeps its ids."""
    if os.geteuid() == 0 and libc.unshare(_CLONE_NEWNS) == 0:
        return True
    uid, gid = os.geteuid(), os.getegid()
    _check(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare")
    for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path("/proc/self", name).write_text(content, encoding="ascii")
    return False


def _bind(libc: Any, source: str, path: str, flags: int = 0) -> None:
    """Mount ``source`` of the old file system at ``path`` in the new one, if it still exists."""
    old, new = f"/old{source}", f"/new{path}"
    if os.path.isdir(old):
        os.makedirs(new, exist_ok=True)
    elif os.path.exists(old):
        os.makedirs(os.path.dirname(new), exist_ok=True)
        Path(new).touch()
    else:
        return
    _mount(libc, old, new, None, _MS_BIND | flags)


def _make_read_only(libc: Any, path: str) -> None:
    new = f"/new{path}"
    if os.path.exists(new):
        flags = sum(flag for said, flag in _MOUNT_FLAGS.items() if os.statvfs(new).f_flag & said)
        _mount(libc, None, new, None, flags | _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID)


def _mount(libc: Any, source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    raw = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _check(libc.mount(raw[0], raw[1], raw[2], ctypes.c_ulong(flags), raw[3]), f"mount {target}")


def _work_in(folder: str) -> None:
    os.chdir(folder)
    os.environ.update(TMPDIR=folder, HOME=folder, PWD=folder)


def _drop_privileges(libc: Any, keep: Sequence[int]) -> None:
    """Give up all capabilities but ``keep``, for good: no program started from here can have more."""
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(_CAPABILITIES):
        if capability not in keep:
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    header, data = struct.pack("Ii", _CAPABILITY_VERSION, 0), ctypes.create_string_buffer(24)
    _check(libc.capget(header, data), "capget")
    kept = sum(1 << capability for capability in keep)
    held = struct.unpack("6I", data.raw)
    low = struct.pack("3I", held[0] & kept, held[1] & kept, 0)
    _check(libc.capset(header, low + struct.pack("3I", 0, 0, 0)), "capset")


def _enter_landlock(paths: Sequence[str], scratch: str) -> None:
    libc = _libc()
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        raise SandboxError("no Landlock")
    handled = (1 << {1: 13, 2: 14}.get(version, 15)) - 1
    rules = libc.syscall(_LANDLOCK_CREATE, struct.pack("Q", handled), ctypes.c_size_t(8), ctypes.c_uint32(0))
    _check(rules, "landlock_create_ruleset")
    for path in (*paths, "/proc"):
        _landlock_allow(libc, rules, path, _LANDLOCK_DIRECTORY if os.path.isdir(path) else _LANDLOCK_FILE)
    for path in filter(os.path.exists, _DEVICES):
        _landlock_allow(libc, rules, path, _LANDLOCK_FILE | _LANDLOCK_WRITE_FILE)
    _landlock_allow(libc, rules, scratch, handled)
    _work_in(scratch)
    _drop_privileges(libc, keep=(_CAP_DAC_OVERRIDE,))
    _check(libc.syscall(_LANDLOCK_RESTRICT, rules, ctypes.c_uint32(0)), "landlock_restrict_self")
    os.close(rules)


def _landlock_allow(libc: Any, rules: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH)
    except OSError:
        return  # gone since it was listed
    try:
        rule = struct.pack("=Qi", access, descriptor)
        _check(libc.syscall(_LANDLOCK_ADD, rules, 1, rule, ctypes.c_uint32(0)), f"landlock_add_rule {path}")
    finally:
        os.close(descriptor)


_STARTS_A_PROGRAM = frozenset(
    {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "pty.spawn"}
)
_PRIES = frozenset({"gc.get_objects", "gc.get_referrers", "gc.get_referents", "sqlite3.connect", "os.chroot"})
_READS = frozenset({"os.listdir", "os.scandir", "os.chdir", "os.getxattr", "os.listxattr"})
_CHANGES = frozenset(
    {"os.link", "os.symlink", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.truncate"}
    | {"os.utime", "os.setxattr", "os.removexattr"}
)
_OPENS_IN_C = frozenset(
    {"open", "open64", "openat", "openat64", "fopen", "fopen64", "freopen", "opendir", "scandir", "readlink", "system"}
    | {"popen", "syscall", "mmap", "execv", "execve", "execvp", "posix_spawn", "fork", "vfork", "ptrace", "mount"}
    | {"process_vm_readv", "PyRun_SimpleString", "_Py_fopen", "_Py_wfopen"}
)


def _enter_audit(paths: Sequence[str], scratch: str) -> None:
    readable = (*paths, *_DEVICES, f"/proc/{os.getpid()}", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat")
    scratch = os.path.realpath(scratch)
    realpath, isinstance_ = os.path.realpath, isinstance

    def may(path: object, *, write: bool) -> bool:
        if path is None or isinstance_(path, int):
            return True
        real = realpath(os.fsdecode(path))  # type: ignore[arg-type]
        if real in _DEVICES or _is_in(real, scratch):
            return True
        return not write and any(_is_in(real, each) for each in readable)

    def allowed(event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
            return may(path, write=writes)
        if event in _READS:
            return may(arguments[0], write=False)
        if event in _CHANGES:
            paths = [path for path in arguments if isinstance_(path, (str, bytes, os.PathLike))]
            return all(may(path, write=True) for path in paths)
        if event == "ctypes.dlsym":
            return arguments[1] not in _OPENS_IN_C
        if event == "object.__setattr__":
            return arguments[0] not in ours
        return event not in _STARTS_A_PROGRAM and event not in _PRIES

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not allowed(event, arguments):
            raise PermissionError(f"a method must not: {event} {arguments[0] if arguments else ''!r}")

    ours = (hook, may, allowed)
    _work_in(scratch)
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            _drop_privileges(_libc(), keep=(_CAP_DAC_OVERRIDE,))
    sys.addaudithook(hook)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise SandboxError(number, f"{what}: {os.strerror(number)}")
