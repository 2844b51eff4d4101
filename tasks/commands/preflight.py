"""``rcarena preflight``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.commands.answers import show, together
from tasks.commands.options import (
    AsJson,
    ParamsFile,
    StackIndex,
    WorkspaceDir,
    checked_params,
    chosen_stacks,
    workspace_at,
)
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from tasks.backends.base import Backend, MissingSeries
    from tasks.params import ExportParams

SERIES_WINDOW_S = 600


def preflight(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    stack: StackIndex = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine, or the cluster, lacks for the stack, and what to do.

    Exit status 1 when something is missing, 2 when there is no cluster or it cannot be reached.
    """
    from tasks.backends import backend_of

    checked = checked_params(params)
    backends = [backend_of(checked, each) for each in chosen_stacks(checked, workspace_at(workspace), stack)]
    answers = ((each.workspace, each.preflight(_missing_series(each, checked.export))) for each in backends)
    show(together(answers), as_json)


def _missing_series(backend: Backend[Any], export: ExportParams) -> MissingSeries | None:
    """Return a function that asks the Prometheus of the published stack; None when there is no such stack."""
    if backend.read_runtime(backend.workspace.stack) is None:
        return None

    def missing() -> list[str]:
        from datetime import UTC, datetime, timedelta

        from tasks.export.exporter import check_series
        from tasks.export.queries.metrics import explain_missing

        live = backend.live()
        live.enter()
        sources = live.sources()
        now = datetime.now(UTC)
        window = (now - timedelta(seconds=SERIES_WINDOW_S), now)
        absent = check_series(sources, window, export, live.describe())
        return explain_missing(absent, sources.units, sources.gpus)

    return missing
