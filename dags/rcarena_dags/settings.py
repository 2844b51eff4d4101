"""Settings of one Airflow installation, from its environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

DAGS = Path(__file__).parents[1]
POOL = "rcarena_stack"
"""Pool of a slot per stack, held by the tasks that change a stack."""


class SettingsError(ValueError):
    """A variable of the environment has a value that cannot be used."""


@dataclass(frozen=True)
class Settings:
    """What one installation can choose: ``from_environment`` says which variable sets what."""

    namespace: str = "rcarena"
    image: str = "rcarena/tasks:0.1.0"
    image_pull_policy: str = "IfNotPresent"
    connection: str = "kubernetes_default"
    claim: str = "workspace"
    mount: str = "/workspace"
    results: str = "/workspace/results"
    results_branch: str = "results"
    results_git_remote: str | None = None
    secrets: tuple[str, ...] = ()
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    gpu_node_selector: dict[str, str] = field(default_factory=dict)
    gpu_tolerations: tuple[dict[str, Any], ...] = ({"key": "nvidia.com/gpu", "operator": "Exists"},)
    gpu_steps: tuple[str, ...] = ()
    stacks: int = 1
    deferrable: bool = True
    poll_s: int = 10
    case_minutes: int = 120
    case_retries: int = 1
    retry_delay_s: int = 20
    params_file: Path = DAGS.parent / "params.yaml"
    presets: Path = DAGS / "presets"
    nightly_cron: str = "30 1 * * *"
    nightly_timezone: str = "UTC"
    notifier: str = "rcarena_dags.notify.LogNotifier"
    notifier_arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def results_options(self) -> list[str]:
        """Options of the commands that read or write the repository of results."""
        return ["--repository", self.results, "--branch", self.results_branch]

    @property
    def publish_options(self) -> list[str]:
        """Options of ``record`` that send what it recorded to the remote, where there is one."""
        return ["--git-remote", self.results_git_remote] if self.results_git_remote else []

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read variables named ``RCARENA_`` and the field's name in capitals: text as it is, all else as JSON.

        Raises:
            SettingsError: a value is not JSON of the right type.
        """
        values: dict[str, Any] = {}
        for name, default in vars(cls()).items():
            variable = f"RCARENA_{name.upper()}"
            if environment.get(variable):
                values[name] = _converted(variable, environment[variable], default)
        if values.get("stacks", 1) < 1:
            raise SettingsError(f"RCARENA_STACKS: must be at least 1 (got {values['stacks']})")
        return cls(**values)


def _converted(variable: str, text: str, default: Any) -> Any:
    if default is None or isinstance(default, str):
        return text
    if isinstance(default, Path):
        return Path(text)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{variable}: not JSON: {error}") from error
    wanted = list if isinstance(default, tuple) else type(default)
    if type(value) is not wanted:
        raise SettingsError(f"{variable}: must be {_NAMES[wanted]} in JSON (got {text})")
    return tuple(value) if isinstance(default, tuple) else value


_NAMES = {list: "a list", dict: "an object", bool: "true or false", int: "a whole number"}


@cache
def settings() -> Settings:
    return Settings.from_environment(os.environ)


def hold_s() -> int:
    """Return for how long a silent campaign keeps its stack: the longest case and the steps around it."""
    return (settings().case_minutes + 120) * 60


def retries(most: int) -> dict[str, Any]:
    """Return the arguments of a task that is retried up to ``most`` times, with growing pauses."""
    delay = timedelta(seconds=settings().retry_delay_s)
    return {
        "retries": most,
        "retry_delay": delay,
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10),
    }


def use_repository() -> None:
    """Make ``tasks`` importable where it lies beside ``dags`` (a checkout, git-sync) and is not installed."""
    root = str(DAGS.parent)
    if (DAGS.parent / "tasks").is_dir() and root not in sys.path:
        sys.path.append(root)
