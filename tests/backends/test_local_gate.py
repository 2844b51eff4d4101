"""What keeps a case on the local stack from starting, without one: a replica that has just been started again."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.backends.local import stack as module
from tasks.backends.local.stack import LocalStack
from tasks.system.process import age_s


def stack_of(**pids: set[int]) -> LocalStack:
    services = [
        SimpleNamespace(name=name, role="replica", cgroup=SimpleNamespace(pids=lambda found=found: found))
        for name, found in pids.items()
    ]
    runtime: Any = SimpleNamespace(alive=True, services=services, prometheus_url="http://unused")
    params: Any = SimpleNamespace(replicas=len(services))
    return LocalStack(runtime, params)


def test_a_replica_that_was_just_restarted_is_not_healthy_whatever_was_scraped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "instant_value", lambda _, query: 2.0 if query == module.HEALTHY_REPLICAS else 0.0)
    monkeypatch.setattr(LocalStack, "slow_or_failing", lambda *_: None)
    monkeypatch.setattr(module, "age_s", {1: 100.0, 2: 3.0, 3: 2.0, 4: None}.get)
    assert stack_of(a={1}, b={1, 2}).unsteady() is None
    assert stack_of(a={1}, b={2, 3}).unsteady() == "b was started 3 s ago"
    assert stack_of(a={1}, b={4}).unsteady() == "b has no process"


def test_the_age_of_a_process():
    with subprocess.Popen(["sleep", "60"]) as young:
        mine, its = age_s(os.getpid()), age_s(young.pid)
        assert mine is not None
        assert its is not None
        assert -0.1 <= its <= mine  # in hundredths
        young.kill()
    assert age_s(young.pid) is None
