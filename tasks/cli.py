"""``rcarena``: one command per stage; what people, DVC and pods all call. Each command is a file of ``tasks.commands``.

Exit status: 0 done, 1 failed, 2 wrong usage or parameters (trying again does not help), 3 a regression was found
(`compare --gate`), 4 nothing significant (`diagnose`).
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import Annotated

import typer

from tasks import __version__
from tasks.commands.act import act
from tasks.commands.actions import actions
from tasks.commands.attach import attach
from tasks.commands.benchmark import benchmark
from tasks.commands.calibrate import calibrate
from tasks.commands.campaign import campaign
from tasks.commands.case import case
from tasks.commands.collect import collect
from tasks.commands.compare import compare
from tasks.commands.dashboard import dashboard
from tasks.commands.deploy import deploy_app
from tasks.commands.diagnose import diagnose
from tasks.commands.errors import Commands
from tasks.commands.export import export_dataset
from tasks.commands.faults import faults
from tasks.commands.import_ import import_dataset
from tasks.commands.inject import inject
from tasks.commands.label import label
from tasks.commands.load import load
from tasks.commands.methods import methods
from tasks.commands.params import params_app
from tasks.commands.performance import performance
from tasks.commands.plan import plan
from tasks.commands.preflight import preflight
from tasks.commands.record import record
from tasks.commands.remediate import remediate
from tasks.commands.report import report
from tasks.commands.score import score
from tasks.commands.step import step_app
from tasks.commands.study import study
from tasks.commands.twins import twins
from tasks.commands.validate import validate
from tasks.commands.validity import validity
from tasks.console import outlive_readers

app = typer.Typer(
    cls=Commands,
    help="Break a known component of an LLM inference stack and score which RCA method names it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rcarena {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what each step does.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Start the clean-up at the first signal, and ignore further ones so that they do not interrupt it."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


COMMANDS: dict[str, Callable[..., None]] = {
    "campaign": campaign,
    "collect": collect,
    "plan": plan,
    "case": case,
    "inject": inject,
    "load": load,
    "score": score,
    "report": report,
    "remediate": remediate,
    "record": record,
    "diagnose": diagnose,
    "label": label,
    "compare": compare,
    "performance": performance,
    "benchmark": benchmark,
    "attach": attach,
    "dashboard": dashboard,
    "calibrate": calibrate,
    "twins": twins,
    "validity": validity,
    "study": study,
    "import": import_dataset,
    "export": export_dataset,
    "methods": methods,
    "faults": faults,
    "act": act,
    "actions": actions,
    "validate": validate,
    "preflight": preflight,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(deploy_app, name="deploy")
app.add_typer(params_app, name="params")
app.add_typer(step_app, name="step")


def main() -> None:
    """Entry point of the console script."""
    outlive_readers()
    app()


if __name__ == "__main__":
    main()
