from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.report.performance import PerformanceError, read_performance, read_sweep
from tests.command import rcarena_here
from tests.synthetic import synthetic_case


def workspace(folder: Path, replicas: int = 2, cases: int = 2) -> Path:
    for number in range(cases):
        synthetic_case(folder / "cases", f"case-{number}", kind=None, replicas=replicas, seed=number)
    return folder


def test_figures_are_those_of_the_requests_of_fault_free_cases(tmp_path: Path) -> None:
    place = workspace(tmp_path / "w")
    synthetic_case(place / "cases", "case-slow", kind="cpu-stress", strength=50)
    found = read_performance(place)
    assert (found.cases, found.parallelism["data"]) == (2, 2)
    assert found.requests_per_s == pytest.approx(found.requests / 120)
    assert found.requests_per_s == pytest.approx(3, rel=0.05)
    assert 0.15 < found.latency_s["p50"] < 0.35
    assert found.ttft_s["p50"] < found.latency_s["p50"] < found.latency_s["p90"] < found.latency_s["p99"] < 1
    assert found.tokens_per_s > found.requests_per_s


def test_a_sweep_is_in_the_order_of_its_settings(tmp_path: Path) -> None:
    folders = [workspace(tmp_path / f"sweep-r{size}-1", replicas=size, cases=1) for size in (3, 1, 2)]
    assert [each.parallelism["data"] for each in read_sweep(folders)] == [1, 2, 3]
    done = rcarena_here("performance", f"{tmp_path}/sweep-*-1", "--json")
    assert [each["parallelism"]["data"] for each in json.loads(done.stdout)] == [1, 2, 3]
    table = rcarena_here("performance", f"{tmp_path}/sweep-*-1").stdout
    assert table.count(" data ") == 3
    assert "TTFT p90" in table


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "w" / "cases", "case-1")
    with pytest.raises(PerformanceError, match="no fault-free case"):
        read_performance(tmp_path / "w")
    workspace(tmp_path / "mixed", replicas=2, cases=1)
    synthetic_case(tmp_path / "mixed" / "cases", "case-other", kind=None, replicas=3)
    with pytest.raises(PerformanceError, match="2 settings of parallelism"):
        read_performance(tmp_path / "mixed")
    done = rcarena_here("performance", f"{tmp_path}/absent-*")
    assert (done.exit_code, "no such folder" in done.stderr) == (2, True)
    done = rcarena_here("performance", "--workspace", str(tmp_path / "w"))
    assert (done.exit_code, "no fault-free case" in done.stderr) == (1, True)
