from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.rca.method import MethodError
from tasks.rca.metric.circa import circa
from tasks.rca.multi_source.mmcirca import mmcirca
from tasks.rca.view import CaseView
from tests.rca.traces import call, with_logs, with_traces
from tests.rca.views import view_of

RNG = np.random.default_rng(0)
ROWS, NORMAL = 60, 40


def noisy(*services: str) -> CaseView:
    """CPU that knows nothing of the fault."""
    random = np.random.default_rng(0)
    columns = {(service, "cpu"): random.normal(10, 1, ROWS).tolist() for service in services}
    return view_of(columns, normal_rows=NORMAL)


def scores(view: CaseView, **parameters: Any) -> dict[tuple[str, str], float]:
    return {(service, metric): score for service, metric, score in mmcirca(view, RNG, **parameters).metrics}


def test_without_logs_it_is_circa_on_a_pc_graph() -> None:
    view = noisy("a", "b", "c")
    assert mmcirca(view, RNG) == circa(view, RNG, graph="pc")


def test_known_answer_of_a_column_without_causes() -> None:
    """a logs 1 or 3 lines in turn (mean 2, deviation 1), then 12: 10 deviations; the metrics are independent of it."""
    counts = [1, 3] * (NORMAL // 2) + [12] * (ROWS - NORMAL)
    lines = [(at - NORMAL + 0.01 * (i + 1) - 1, "a", "info", "line") for at, n in enumerate(counts) for i in range(n)]
    found = scores(with_logs(noisy("a", "b"), lines), log_lines="service", alpha=1e-6)
    assert found["a", "log_lines"] == pytest.approx(10 * np.sqrt((NORMAL - 1) / NORMAL))


def test_spans_count_if_asked_for() -> None:
    random = np.random.default_rng(1)
    roots = [call("b", at + 0.1, (0.3 if at >= 0 else 0.03) * random.uniform(0.8, 1.2)) for at in range(-NORMAL, 20)]
    view = with_traces(noisy("a", "b"), roots)
    assert {metric for _, metric in scores(view)} == {"cpu"}
    found = scores(view, spans=True)
    assert max(found, key=found.__getitem__) == ("b", "span_latency op")


def test_needs_both_sides_of_the_fault() -> None:
    view = noisy("a")
    with pytest.raises(MethodError, match="before the inject time"):
        mmcirca(replace(view, inject_time=view.metrics.index[0]), RNG)
