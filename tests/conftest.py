"""Settings for every test."""

import os

import pytest
from hypothesis import settings

for library in ("OMP", "OPENBLAS", "MKL"):  # before NumPy reads it: as the processes that run methods
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

for variable in [name for name in os.environ if name.startswith("GIT_")]:  # of a hook that runs the tests
    del os.environ[variable]

settings.register_profile("rcarena", deadline=None)
settings.load_profile("rcarena")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("cluster") is None)  # the longest first
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("privileged") or item.get_closest_marker("local_stack"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
