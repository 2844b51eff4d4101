"""Calibrations: what a fit gets back of constants that are known, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks import metrics
from tasks.backends.simulated.calibrate import CalibrationError, calibrate, fit_host, fit_step
from tasks.backends.simulated.calibration import HANDOVER_AT, read_calibration, shipped
from tasks.backends.simulated.hosts import _Noise
from tasks.backends.simulated.twin import make_twin
from tasks.case import Case, validate_case
from tasks.errors import ParamsError
from tests.backends.simulated.cases import fault, toy_case
from tests.command import rcarena_here


def known_calls(count: int = 800, sigma: float = 0.05) -> pd.DataFrame:
    """Requests whose steps follow a law of 8 ms + 2 ms per sequence + 1 µs per token."""
    rng = np.random.default_rng(1)
    batch, kv = rng.uniform(1, 8, count), rng.uniform(0, 3000, count)
    prompt = rng.integers(10, 500, count)
    noise = np.exp(sigma * rng.standard_normal(count))
    return pd.DataFrame(
        {
            "case": "a",
            "service": "r",
            "end_s": np.sort(rng.uniform(0, 100, count)),
            "step_s": (0.008 + 0.002 * batch + 1e-6 * kv) * noise,
            "batch": batch,
            "kv_tokens": kv,
            "prefill_s": 0.008 + 3e-5 * prompt + 1e-4 * rng.standard_normal(count),
            "prompt_tokens": prompt,
        }
    )


def test_the_step_law_comes_back() -> None:
    law, r2 = fit_step(known_calls(), read_calibration("local-toy").engine.step)
    assert law.fixed_s == pytest.approx(0.008, rel=0.1)
    assert law.per_sequence_s == pytest.approx(0.002, rel=0.1)
    assert law.per_kv_token_s == pytest.approx(1e-6, rel=0.15)
    assert law.per_prefill_token_s == pytest.approx(3e-5, rel=0.05)
    assert law.sigma == pytest.approx(0.05, rel=0.15)
    assert r2 > 0.9


def test_no_coefficient_is_below_zero() -> None:
    calls = known_calls()
    calls["step_s"] = 0.02 - 0.001 * calls["batch"]
    law, _ = fit_step(calls, read_calibration("local-toy").engine.step)
    assert law.per_sequence_s == 0
    assert law.fixed_s > 0


def test_host_constants_come_back() -> None:
    rng = np.random.default_rng(2)
    requests, work = rng.uniform(0.5, 4, 400), rng.uniform(0, 1, 400)
    samples = pd.DataFrame(
        {
            "requests": requests,
            "tokens": 16 * requests,
            "work": work,
            "cpu_usage": 0.1 + 0.5 * work + 0.02 * requests,
            "memory_rss": 2e9,
            "processes": 7.0,
        }
    )
    host, r2 = fit_host(samples, read_calibration("local-toy").host_replica)
    assert host.cpu_idle == pytest.approx(0.1, rel=0.02)
    assert host.cpu_per_work_s == pytest.approx(0.5, rel=0.02)
    assert host.cpu_per_request == pytest.approx(0.02, rel=0.05)
    assert host.memory_bytes == 2e9
    assert host.processes == 7
    assert r2 > 0.99


def residual_samples(windows: int = 6, steps: int = 20) -> pd.DataFrame:
    """Windows whose CPU and received bytes share an error, and whose memory is a walk."""
    rng = np.random.default_rng(3)
    frames = []
    for i in range(windows):
        work, error = rng.uniform(0.2, 1, steps), 0.1 * rng.standard_normal(steps)
        frames.append(
            pd.DataFrame(
                {
                    "requests": 3 * work,
                    "tokens": 48 * work,
                    "work": work,
                    "cpu_usage": (0.1 + 0.4 * work) * np.exp(error),
                    "network_receive": (1000 + 200 * 48 * work) * np.exp(error),
                    "memory_rss": 1e9 * np.exp(np.cumsum(0.001 * rng.standard_normal(steps))),
                    "window": f"case-{i}/r",
                    "step_s": 1.0,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def test_residuals_are_kept_and_played_for_all_metrics_at_once() -> None:
    host, _ = fit_host(residual_samples(), read_calibration("local-toy").host_replica)
    assert host.residuals is not None
    assert host.residuals.table.shape == (6, 20, 3)
    noise = _Noise(host, (60, 40), np.arange(60.0), (5,))
    cpu, memory, received = (np.log(noise.factor(metrics.METRICS[name])) for name in host.residuals.metrics)
    recorded, levels = host.residuals.table[:, :, 0], host.residuals.table[:, :, 1]
    assert np.std(cpu) == pytest.approx(np.std(recorded), rel=0.15)
    assert np.corrcoef(cpu.ravel(), received.ravel())[0, 1] > 0.8
    assert np.abs(np.diff(memory, axis=0)).max() <= np.abs(np.diff(levels, axis=1)).max() + 1e-9
    assert levels.min() - 1e-9 <= memory.min() < memory.max() <= levels.max() + 1e-9
    longer = _Noise(host, (90, 40), np.arange(90.0), (5,)).factor(metrics.METRICS["cpu_usage"])
    np.testing.assert_array_equal(np.log(longer[:60]), cpu)


def test_the_hand_over_has_the_quantiles_that_were_recorded() -> None:
    engine = read_calibration("local-toy").engine
    drawn = np.random.default_rng(1).standard_normal(20_000)
    factors = np.array([engine.handover_factor(float(each)) for each in drawn])
    shares = (0.1, 0.5, 0.9, 0.98)
    kept = [engine.handover_quantiles[HANDOVER_AT.index(share)] for share in shares]
    np.testing.assert_allclose(np.quantile(factors, shares), kept, rtol=0.1)


def test_an_unreadable_table_of_residuals_is_named(tmp_path: Path) -> None:
    known = read_calibration("local-toy")
    bad = tmp_path / "bad.yaml"
    assert known.host_head.residuals is not None
    bad.write_text(known.dump().replace(known.host_head.residuals.values, "AAAA"), encoding="utf-8")
    with pytest.raises(ParamsError, match=r"host_head.residuals.*values"):
        read_calibration(str(bad))


def test_simulated_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="simulated"):
        calibrate([toy_case(tmp_path)], read_calibration("local-toy"), "x")


def test_too_few_requests_are_refused() -> None:
    with pytest.raises(CalibrationError, match="0 requests"):
        calibrate([], read_calibration("local-toy"), "x")


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_calibration_says_where_its_constants_come_from(name: str, tmp_path: Path) -> None:
    known = read_calibration(name)
    assert all(len(source) > 5 for source in known.sources.values())
    copy = tmp_path / "copy.yaml"
    copy.write_text(known.dump(), encoding="utf-8")
    assert read_calibration(str(copy)) == known


def test_an_unknown_calibration_names_those_there_are() -> None:
    with pytest.raises(ParamsError, match="local-toy"):
        read_calibration("local-tyo")


def test_a_bad_calibration_names_its_key(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        read_calibration("local-toy").dump().replace("max_num_seqs: 16", "max_num_seqs: 0"), encoding="utf-8"
    )
    with pytest.raises(ParamsError, match="max_num_seqs"):
        read_calibration(str(bad))


def as_recorded(case: Case) -> Case:
    """Return the case as if a real stack had left it."""
    stack = case.record.stack.model_copy(update={"simulated": False, "backend": "local"})
    return Case(case.path, case.record.model_copy(update={"stack": stack}))


def test_a_twin_repeats_load_and_faults(tmp_path: Path) -> None:
    case = as_recorded(toy_case(tmp_path / "one", fault("cpu-stress", "ray-replicas-1", offset_s=5, duration_s=10)))
    twin = make_twin(case, "local-toy", tmp_path / "twins")
    assert twin is not None
    assert twin.record.case_id == case.record.case_id
    assert twin.record.stack.simulated
    assert len(twin.requests) == pytest.approx(len(case.requests), rel=0.2)
    ((a, b),) = zip(case.record.injections, twin.record.injections, strict=True)
    assert (a.kind, a.target, a.parameters) == (b.kind, b.target, b.parameters)
    assert (b.planned.end - b.planned.start).total_seconds() == 10


def test_the_command_makes_a_twin_of_each_case(tmp_path: Path) -> None:
    case = toy_case(tmp_path / "recorded" / "cases", fault("network-delay", "ray-replicas-1"))
    twins = tmp_path / "twins"
    done = rcarena_here("twins", str(tmp_path / "recorded"), "-o", str(twins))
    assert done.exit_code == 0, done.output
    assert "1 twins" in done.output
    assert validate_case(twins / "cases" / case.record.case_id) == []
    again = rcarena_here("twins", str(tmp_path / "recorded"), "-o", str(twins))
    assert again.exit_code == 0, again.output
    before = (case.path / "manifest.json").read_bytes()
    onto = rcarena_here(
        "twins", str(tmp_path / "recorded"), "-o", str(tmp_path / "recorded"), "--calibration", "h100-7b"
    )
    assert (onto.exit_code, (case.path / "manifest.json").read_bytes()) == (2, before)
    nothing = rcarena_here("twins", str(tmp_path / "empty"), "-o", str(twins))
    assert nothing.exit_code == 2
    assert "no finished case" in nothing.output
