"""Checks of parameters that several stages make together."""

from __future__ import annotations

from tasks.backends import deploy_problems, find
from tasks.errors import ParamsError
from tasks.inject.catalogue import validate_inject_params
from tasks.params import Params
from tasks.traffic import TokenLimits


def check_params(params: Params, source: str) -> None:
    """Check what the registries of fault kinds, methods and models know, and whether the load fits the case.

    Raises:
        ParamsError: every problem, each naming its key in ``source``.
    """
    from tasks.export.masking import pattern_problem  # pyarrow
    from tasks.load.check import load_problems  # numpy
    from tasks.rca.registry import validate_methods
    from tasks.remediate.policies import remediate_problems
    from tasks.score.campaign import validate_score_params  # pandas: who only plans (an Airflow worker) has none

    problems = [*validate_inject_params(params), *validate_score_params(params.score)]
    problems += remediate_problems(params.remediate)
    problems += find(params.deploy.backend).injection_problems(params.deploy, params.inject.cases())
    found = deploy_problems(params.deploy)
    limits = TokenLimits() if found else find(params.deploy.backend).token_limits(params.deploy)
    loads = {"load": params.load} | {
        f"inject.scenarios[{number}].load": params.load_of(scenario)
        for number, scenario in enumerate(params.inject.scenarios)
        if scenario.load
    }
    windows = params.campaign.windows
    unusable = [(number, why) for number, each in enumerate(params.export.mask) if (why := pattern_problem(each))]
    problems += [f"export.mask[{number}]: {why}" for number, why in unusable]
    problems += [each.replace("score.", "diagnose.", 1) for each in validate_methods(params.diagnose.methods)]
    problems += [*found, *(each for key, load in loads.items() for each in load_problems(load, windows, limits, key))]
    if not params.inject.cases() and not params.campaign.fault_free_cases:
        problems.append("inject.faults: empty, and campaign.fault_free_cases is 0: the campaign would have no case")
    if problems:
        raise ParamsError(f"{source}: {problem}" for problem in problems)
