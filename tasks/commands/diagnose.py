"""``rcarena diagnose``."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.commands.options import AsJson, ParamsFile, StackIndex, WorkspaceDir, checked_params, one_stack, workspace_at
from tasks.errors import EXIT_NOTHING, ParamsError
from tasks.params import DEFAULT_PARAMS_FILE, Params
from tasks.workspace import DEFAULT_WORKSPACE, Workspace

if TYPE_CHECKING:
    from tasks.diagnose.recording import Recording

WAIT_S = 60.0
"""So long a diagnosis waits for another one of the same workspace."""
_UNITS = {"s": 1, "m": 60, "h": 3600}


def diagnose(
    case: Annotated[
        str | None,
        typer.Argument(metavar="[CASE]", help="Instead of a live stack: a case folder, or its id in the workspace."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When it began: ISO 8601, UTC unless it says so.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="How far back to look for a change, such as 30m.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", metavar="NAME", help="Instead of diagnose.methods; again for a further one."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on looking, every diagnose.every_s seconds.")] = False,
    alerts: Annotated[
        str | None,
        typer.Option("--alerts", metavar="[HOST:]PORT", help="Receive the webhooks of Alertmanager there, at /alerts."),
    ] = None,
    remediate: Annotated[
        bool, typer.Option("--remediate", help="Say which action the diagnosis asks for, and what is against it.")
    ] = False,
    act: Annotated[bool, typer.Option("--act", help="With --remediate: carry it out if no guard refuses.")] = False,
    as_json: AsJson = False,
    after: Annotated[str | None, typer.Option("--after", hidden=True)] = None,
    alerts_of: Annotated[Path | None, typer.Option("--alerts-of", hidden=True)] = None,
    stack: StackIndex = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Find what broke in a live stack, and why: the change, the suspects, the evidence.

    Exit status: 0 a root is named, 4 nothing significant, 1 no telemetry, 2 wrong usage.
    """
    if at is not None and since is not None:
        raise ParamsError(["--at and --since: give one of them"])
    if act and not remediate:
        raise ParamsError(["--act: only with --remediate"])
    if remediate and as_json:
        raise ParamsError(["--remediate: not with --json, whose answer is the diagnosis alone"])
    if act and case is not None:
        raise ParamsError(["--act: not with CASE, which is over"])
    if act and at is not None:
        raise ParamsError(["--act: not with --at, which may be over"])
    if watch or alerts is not None:
        if case is not None or at is not None or since is not None or as_json:
            raise ParamsError(["--watch, --alerts: not with CASE, --at, --since or --json"])
        _watch(watch, alerts, method or [], (remediate, act), stack, params, workspace)
        return
    from tasks.console import Console
    from tasks.diagnose.diagnose import NoChange, Question, check_methods
    from tasks.diagnose.diagnose import diagnose as answer
    from tasks.diagnose.errors import DiagnoseError
    from tasks.diagnose.incidents import prune
    from tasks.diagnose.watch import ALERTS
    from tasks.system.file_lock import FileLock

    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    logging.getLogger("tasks.export").setLevel(logging.ERROR)  # the diagnosis says what is missing
    question = Question(
        methods=tuple(method or checked.diagnose.methods),
        at=None if at is None else moment(at, "--at"),
        since_s=None if since is None else seconds(since, "--since"),
        not_before=None if after is None else moment(after, "--after"),
        alerts=() if alerts_of is None else ALERTS.validate_json(alerts_of.read_bytes()),
    )
    check_methods(question.methods, checked)
    busy = DiagnoseError(f"another diagnosis is under way in {place.root}")
    with FileLock(place.root / ".diagnose.lock", busy, timeout_s=WAIT_S):
        recording = _recording(case, checked, one_stack(checked, place, stack))
        say = (lambda _: None) if as_json else console.say
        found = answer(recording, question, checked, place.incidents, say, also=(place.cases,))
    prune(place.incidents, checked.diagnose.keep, checked.diagnose.keep_days)
    if isinstance(found, NoChange):
        console.show(json.dumps({"named": False, "text": found.text}) if as_json else found.text)
        raise typer.Exit(EXIT_NOTHING)
    console.show(found.model_dump_json(indent=1) if as_json else found.text())
    if remediate:
        from tasks.diagnose.remedy import Remedy

        Remedy(checked.remediate, one_stack(checked, place, stack), console.say, act)(found)
    raise typer.Exit(0 if found.named else EXIT_NOTHING)


def _watch(
    look: bool,
    address: str | None,
    methods: Sequence[str],
    remedy: tuple[bool, bool],
    stack: int | None,
    params: Path,
    workspace: Path,
) -> None:
    """Watch until Ctrl-C, which ends well. ``remedy``: whether remedies are named, and carried out."""
    from tasks.console import Console
    from tasks.diagnose.alerts import Inbox, Receiver
    from tasks.diagnose.diagnose import check_methods
    from tasks.diagnose.remedy import Remedy
    from tasks.diagnose.watch import ChildProcess, Watch

    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    check_methods(tuple(methods or checked.diagnose.methods), checked)
    of_stack = one_stack(checked, place, stack)
    after = (Remedy(checked.remediate, of_stack, console.say, remedy[1]),) if remedy[0] else ()
    options = ["--params", str(params), "--workspace", str(place.root)]
    options += [] if stack is None else ["--stack", str(stack)]
    options += [word for method in methods for word in ("--method", method)]
    inbox = Inbox()
    loop = Watch(ChildProcess(options), checked.diagnose, place.incidents, console.say, inbox, look, after)
    with ExitStack() as open_things:
        if address is not None:
            receiver = open_things.enter_context(Receiver(address, inbox, checked.diagnose.token_file))
            console.say(f"watch: alerts are taken at {receiver.url}")
        if look:
            console.say(f"watch: looks every {checked.diagnose.every_s:g} s")
        try:
            loop.run()
        except KeyboardInterrupt:
            console.say("watch: ended")


def _recording(case: str | None, params: Params, place: Workspace) -> Recording:
    from tasks.diagnose.recording import CaseRecording, LiveRecording

    if case is not None:
        from tasks.case import read_case

        return CaseRecording(read_case(case_folder(case, place)), params.export.mask)
    from tasks.backends import backend_of

    live = backend_of(params, place).live()
    live.enter()
    return LiveRecording(live, params)


def case_folder(case: str, place: Workspace) -> Path:
    """Return the folder of a case that somebody names by its path or its id. Raises ParamsError: there is none."""
    candidates = [Path(case), place.cases / case, place.incidents / case]
    found = next((path for path in candidates if path.is_dir()), None)
    if found is None:
        raise ParamsError([f"{case}: no such folder, and no case of that id in {place.cases} or {place.incidents}"])
    return found


def moment(text: str, option: str) -> datetime:
    """Return a time. Raises ParamsError, which names ``option``."""
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ParamsError([f"{option}: '{text}' is no time; write it as 2026-11-29T21:30:00"]) from None


def seconds(text: str, option: str) -> float:
    """Return a duration in seconds. Raises ParamsError, which names ``option``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text)
    value = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if not 10 <= value <= 86_400:
        raise ParamsError([f"{option}: '{text}' is no time from 10s to 24h; write it as 90s, 30m or 2h"])
    return value
