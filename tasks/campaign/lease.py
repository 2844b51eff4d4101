"""A stack for as long as a process needs it: should the process be killed, the stack ends, too."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from typing import Any

from tasks.backends.base import Backend, Say
from tasks.campaign.holders import forget
from tasks.deploy.errors import DeployError
from tasks.inject.recover import recover

LEASE_RENEWAL_S = 5.0


@contextlib.contextmanager
def leased_stack(backend: Backend, say: Say, keep: bool) -> Iterator[None]:
    """Bring the stack up and lease it: should this process be killed, the stack ends, too. Take it down at the end."""
    try:
        try:
            backend.up(say)
        except DeployError:
            say("the stack does not come up; no case was tried")
            raise
        with _lease(backend):
            yield
    finally:
        if keep:
            backend.drop_lease()
            say("stack: kept up; end it with `rcarena deploy down`")
        else:
            say("stack: taking it down")
            take_down(backend)


def take_down(backend: Backend[Any], say: Say | None = None, also: Collection[str] = ()) -> bool:
    """Undo faults, then end the stack even if the undo fails. Return False when there was no stack."""
    try:
        recover(backend.workspace)
    finally:
        found = backend.down(say, also)
        forget(backend.workspace)
    return found


@contextlib.contextmanager
def _lease(backend: Backend) -> Iterator[None]:
    """Renew the lease of the stack in a thread."""
    stopped = threading.Event()

    def renew() -> None:
        while not stopped.is_set():
            with contextlib.suppress(OSError):  # a fresh stack is clearing its directory, or the disk is full
                backend.renew_lease()
            stopped.wait(LEASE_RENEWAL_S)

    backend.renew_lease()
    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
