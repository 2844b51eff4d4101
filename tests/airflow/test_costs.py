"""The cost classes of methods that the DAGs know are those that methods have."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tasks.rca.registry import list_methods

COSTS = Path(__file__).parents[2] / "dags" / "rcarena_dags" / "costs.py"


def test_pods_are_as_large_as_methods_cost() -> None:
    spec = importlib.util.spec_from_file_location("costs", COSTS)
    assert spec is not None
    assert spec.loader is not None
    costs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(costs)
    assert {each.name: costs.cost_of(each.name) for each in list_methods()} == {
        each.name: each.cost for each in list_methods()
    }
