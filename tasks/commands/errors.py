"""How a command ends when something is wrong: one clear message and an exit status (:mod:`tasks.exit_status`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer

from tasks.exit_status import FAILED as EXIT_FAILED
from tasks.exit_status import HOPELESS as EXIT_USAGE
from tasks.validation import ParamsError

Arguments = ParamSpec("Arguments")

__all__ = ["EXIT_FAILED", "EXIT_USAGE", "fail", "stage"]


def stage(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Turn the errors that a user can cause or cure into one clear message and an exit status."""

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            fail("interrupted; run the same command again to continue", EXIT_FAILED)
        except _hopeless() as error:
            fail(error, EXIT_USAGE)
        except _failures() as error:
            fail(error, EXIT_FAILED)

    return run


def _hopeless() -> tuple[type[Exception], ...]:
    from tasks.inject.injection import InjectionRefusedError

    return (ParamsError, InjectionRefusedError)


def _failures() -> tuple[type[Exception], ...]:
    from tasks.campaign.attempt import AttemptError
    from tasks.campaign.collect import CampaignError
    from tasks.campaign.phases import ScheduleError
    from tasks.case import CaseError
    from tasks.compare.errors import CompareError
    from tasks.deploy.errors import DeployError, StackNotRunningError
    from tasks.export.base import ExportError
    from tasks.inject.executor import FaultError
    from tasks.inject.injection import InjectionError
    from tasks.inject.journal import JournalError
    from tasks.kube.errors import ClusterError
    from tasks.load.run import LoadError
    from tasks.rca.run.child import RunnerError
    from tasks.record.errors import RecordError
    from tasks.report.performance import PerformanceError
    from tasks.score.campaign import ScoreError
    from tasks.score.files import ScoresError

    return (
        AttemptError,
        CampaignError,
        CaseError,
        ClusterError,
        CompareError,
        DeployError,
        ExportError,
        FaultError,
        InjectionError,
        JournalError,
        LoadError,
        PerformanceError,
        RecordError,
        RunnerError,
        ScheduleError,
        ScoreError,
        ScoresError,
        StackNotRunningError,
        OSError,
    )


def fail(error: object, status: int) -> None:
    for line in str(error).splitlines() or [type(error).__name__]:
        typer.echo(f"rcarena: {line}", err=True)
    raise typer.Exit(status)
