"""Checks of parameters that several stages make together."""

from __future__ import annotations

from tasks.backends import deploy_problems
from tasks.errors import ParamsError
from tasks.inject.catalogue import validate_inject_params
from tasks.params import Params


def check_params(params: Params, source: str) -> None:
    """Check what the registries of fault kinds, methods and models know.

    Raises:
        ParamsError: every problem, each naming its key in ``source``.
    """
    from tasks.score.campaign import validate_score_params  # pandas: who only plans (an Airflow worker) has none

    problems = [*validate_inject_params(params), *validate_score_params(params.score)]
    problems += deploy_problems(params.deploy)
    if not params.inject.cases() and not params.campaign.fault_free_cases:
        problems.append("inject.faults: empty, and campaign.fault_free_cases is 0: the campaign would have no case")
    if problems:
        raise ParamsError(f"{source}: {problem}" for problem in problems)
