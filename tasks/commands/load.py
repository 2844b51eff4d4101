"""``rcarena load``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.options import ParamsFile
from tasks.errors import ParamsError
from tasks.params import DEFAULT_PARAMS_FILE, load_params
from tasks.validation import validation_problems


def load(
    url: Annotated[str, typer.Option("--url", help="An OpenAI-compatible server; a ?query is kept.")],
    model: Annotated[str, typer.Option("--model", help="The model name it serves.")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file for the requests.")],
    duration: Annotated[float, typer.Option("--duration", min=0.1, help="Seconds.")] = 30,
    api_key_env: Annotated[
        str | None,
        typer.Option("--api-key-env", metavar="NAME", help="Send the API key in this environment variable."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", metavar="FILE", help="Send the API key in this file.")
    ] = None,
    ignore_eos: Annotated[
        bool | None,
        typer.Option(
            "--ignore-eos/--no-ignore-eos",
            help="Ask for exactly the wanted number of tokens, an extension of vLLM; default: load.ignore_eos.",
        ),
    ] = None,
    fault_start: Annotated[
        float | None,
        typer.Option(
            "--fault-start",
            min=0,
            metavar="SECONDS",
            help="Second of the run from which load.shapes and load.long_prompts count; default: as in a case.",
        ),
    ] = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
) -> None:
    """Load any OpenAI-compatible server as a campaign would, and record every request."""
    from pydantic import ValidationError

    from tasks.console import Console
    from tasks.load.api_key import ApiKey
    from tasks.load.run import record_requests
    from tasks.load.spec import LoadSpec, url_problem

    checked, console = load_params(params), Console()
    problem = url_problem(url)
    if problem is not None:
        raise ParamsError([f"--url: {problem}"])
    if api_key_env is not None and api_key_file is not None:
        raise ParamsError(["give --api-key-env or --api-key-file, not both"])
    if fault_start is not None and not (checked.load.shapes or checked.load.long_prompts):
        raise ParamsError(["--fault-start: load has neither shapes nor long_prompts, which count from there"])
    api_key = ApiKey.of_variable(api_key_env) if api_key_env is not None else None
    api_key = ApiKey.of_file(api_key_file) if api_key_file is not None else api_key
    asked = checked.load if ignore_eos is None else checked.load.model_copy(update={"ignore_eos": ignore_eos})
    windows = checked.campaign.windows
    try:
        spec = LoadSpec(
            params=asked,
            url=url,
            model=model,
            duration_s=duration,
            seed=checked.campaign.seed,
            fault_start_s=windows.warmup_s + windows.baseline_s if fault_start is None else fault_start,
        )
    except ValidationError as error:
        raise ParamsError(validation_problems(error, LoadSpec)) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    record = record_requests(spec, out, api_key=api_key)
    console.say(
        f"{record.requests} requests, {record.failed} failed, send lag p99 {record.send_lag_p99_ms or 0:.1f} ms: "
        f"{record.verdict}; {out}"
    )
