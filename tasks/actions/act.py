"""Carries out actions. An action has a journal, and a timer that finishes or undoes it when this process is killed.

The journal is one of the faults': `rcarena inject --recover` brings back what lasts, and finishes what was cut off.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.actions.catalogue import ActionKind, find_action
from tasks.actions.errors import ActionError, ActionRefusedError
from tasks.actions.executor import ActionExecutor
from tasks.backends import actions_on, faults_on
from tasks.backends.base import Runtime
from tasks.inject.errors import FaultError, JournalError
from tasks.inject.guardian import start_dead_man
from tasks.inject.journal import (
    CLOSED,
    Journal,
    journal_files,
    journal_lock,
    journal_path,
    read_journal,
    write_journal,
)
from tasks.inject.recover import recover_journal, undo
from tasks.plugins import PluginError
from tasks.system.marked_processes import DEAD_MAN_MARKER, end_marked
from tasks.system.process import ProcessId, machine_id
from tasks.text import suggest
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

ACT_S = 30.0
"""An action that is neither done nor undone so long after its start is cut off: the timer takes over."""
LOCK_S = 60.0


Objection = Callable[[], str | None]
"""Returns why an action must not be carried out now, else None."""


def act(
    runtime: Runtime,
    workspace: Workspace,
    action: str,
    target: str,
    case_id: str,
    objection: Objection = lambda: None,
) -> Journal:
    """Carry out an action once: a second call with the same case, target and action finds it done.

    One action at a time is begun on a stack. ``objection`` is asked when it is this one's turn, so that of two that
    were allowed at the same moment the second sees the first.

    Raises:
        ActionRefusedError: the stack cannot carry it out, it would be of no use, or there is an objection. Nothing was
            done.
        ActionError: it failed. An action that lasts is undone; of another, what is left is named.
    """
    kind = _checked(runtime, action, target)
    path = _path(workspace, action, target, case_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with journal_lock(path.with_name("actions"), LOCK_S):
            return _once(runtime, kind, target, path, objection)
    except (FaultError, JournalError, OSError) as error:
        raise ActionError(f"{action} of {target}: {error}") from error


def undo_action(workspace: Workspace, action: str, target: str) -> list[str]:
    """Undo this action on ``target`` wherever it lasts; return what was done.

    Raises:
        ActionError: it could not be undone, or was cut off and has no way back.
    """
    done = []
    for journal in lasting(workspace):
        if (journal.kind, journal.target.name) != (action, target):
            continue
        if journal.finishes:
            raise ActionError(f"{action} of {target} has no way back; `rcarena inject --recover` finishes it")
        path = journal_path(workspace.journal.resolve(), journal.injection_id)
        try:
            done.append(recover_journal(path, by="undo") or f"{journal.phrase}: was undone")
        except (FaultError, JournalError, OSError) as error:
            raise ActionError(f"{action} of {target}: {error}") from error
    return done


def lasting(workspace: Workspace) -> list[Journal]:
    """Return the journals of the actions that last or were cut off, oldest first."""
    return [journal for journal in actions_of(workspace) if journal.open]


def actions_of(workspace: Workspace) -> list[Journal]:
    """Return the journals of all actions on this workspace's stack, oldest first."""
    found = []
    for path in journal_files(workspace.journal):
        try:
            journal = read_journal(path)
        except JournalError as error:
            log.warning("%s", error)
            continue
        if journal.what == "action":
            found.append(journal)
    return sorted(found, key=lambda journal: journal.start_at)


def refusal(runtime: Runtime, action: str, target: str) -> str | None:
    """Return why ``act`` would refuse, for a dry run; None when it would act."""
    try:
        kind = _checked(runtime, action, target)
        return _executor(runtime, kind, target, "dry-run").refusal()
    except (ActionError, FaultError, OSError) as error:
        return str(error)


def known_action(action: str) -> ActionKind:
    """Return the action of this name. Raises ActionRefusedError: there is none, or its package cannot be used."""
    try:
        return find_action(action)
    except (KeyError, PluginError) as error:
        raise ActionRefusedError(str(error.args[0])) from error


def _checked(runtime: Runtime, action: str, target: str) -> ActionKind:
    """Return the action. Raises ActionRefusedError when this stack cannot have it."""
    kind = known_action(action)
    roles = {service.name: service.role for service in runtime.services}
    if target not in roles:
        raise ActionRefusedError(f"unknown service '{target}'; {suggest(target, roles)}")
    if kind.executor(runtime.backend) is None:
        able = f"{', '.join(kind.backends) or 'no backend'} can"
        why = actions_on(runtime.backend).refused.get(action, able)
        raise ActionRefusedError(f"the {runtime.backend} backend has no {action}: {why}")
    if roles[target] not in kind.roles_on(runtime.backend):
        fitting = [name for name, role in roles.items() if role in kind.roles_on(runtime.backend)]
        raise ActionRefusedError(
            f"{action} cannot act on '{target}' (role {roles[target]}); allowed: {', '.join(fitting) or 'none'}"
        )
    if not runtime.alive:
        raise ActionRefusedError("the stack does not run")
    return kind


def _path(workspace: Workspace, action: str, target: str, case_id: str) -> Path:
    """Return the journal's file: a function of case, target and action."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{case_id}.{target}.{action}")
    try:
        return journal_path(workspace.journal.resolve(), name)
    except ValueError as error:
        raise ActionRefusedError(str(error)) from error


def _executor(runtime: Runtime, kind: ActionKind, target: str, action_id: str) -> ActionExecutor[Any]:
    executor = kind.executor(runtime.backend)
    assert executor is not None
    return executor(faults_on(runtime.backend).target(runtime, target), action_id)


def _once(runtime: Runtime, kind: ActionKind, target: str, path: Path, objection: Objection) -> Journal:
    """Find the action done, or do it; the caller holds the lock of the stack's actions."""
    if path.exists():
        known = _known(path)
        if known.state == "active":
            return known
        if known.open:  # a process before this one was killed
            recover_journal(path, by="the next try")
            known = read_journal(path)
        if known.finishes and known.began:
            return known
    executor = _executor(runtime, kind, target, path.stem)
    refused = objection() or executor.refusal()
    if refused:
        raise ActionRefusedError(f"{kind.name} of {target}: {refused}")
    return _carry_out(executor, _journal(executor, kind, path), path)


def _known(path: Path) -> Journal:
    """Return the journal of an earlier try; the timer of an action that lasts is ended, so that it goes on lasting."""
    with journal_lock(path, LOCK_S):  # no timer is amid its undo
        known = read_journal(path)
        if known.state == "active" and not end_marked(DEAD_MAN_MARKER, path):
            raise FaultError("it lasts, but its timer does not end and will undo it")
    return known


def _journal(executor: ActionExecutor[Any], kind: ActionKind, path: Path) -> Journal:
    return Journal(
        what="action",
        finishes=not executor.lasts,
        injection_id=path.stem,
        kind=kind.name,
        parameters={},
        target=executor.target,
        start_at=datetime.now(UTC),
        duration_s=ACT_S,
        start_monotonic=time.monotonic(),
        resources=(),
        undo=executor.steps(),
        machine=machine_id(),
        owner=ProcessId.current(),
    )


def _carry_out(executor: ActionExecutor[Any], journal: Journal, path: Path) -> Journal:
    """Act, and end the timer when the state before or the state after is reached."""
    with journal_lock(path, LOCK_S):
        write_journal(path, journal)
        journal.state = "applying"
        journal.applied_at = datetime.now(UTC)
        start_dead_man(path, journal)  # remembers it as begun: should the file be lost, it finishes the action
        write_journal(path, journal)
        left = _begin(executor, journal, path) if executor.lasts else undo(path, journal, by="the action")
    if left:
        raise FaultError("; ".join(left))
    end_marked(DEAD_MAN_MARKER, path)
    return journal


def _begin(executor: ActionExecutor[Any], journal: Journal, path: Path) -> list[str]:
    """Begin an action that lasts; undo it when that fails. Returns what is left of a failure."""
    try:
        executor.begin()
    except (FaultError, OSError) as error:
        left = undo(path, journal, by="the action")
        journal.reason = f"not done: {error}"
        write_journal(path, journal)
        if journal.state == CLOSED:
            end_marked(DEAD_MAN_MARKER, path)
        return [str(error), *left]
    journal.state = "active"
    write_journal(path, journal)
    return []
