import json
from pathlib import Path
from typing import Any

import pytest

from tasks.html.shell import packed
from tasks.report.data import report_data
from tasks.report.sections.details import case_figure
from tests.synthetic import T0, synthetic_case


def figure_of(cases: Path) -> dict[str, Any]:
    (summary,) = report_data(cases, cases / "none", title="t").cases
    document = case_figure(summary)
    assert document is not None
    found: dict[str, Any] = json.loads(json.dumps(document))
    return found


def test_packed_is_the_same_every_time_and_cannot_close_a_script() -> None:
    document = b'{"a":"</script>"}' * 50
    assert packed(document) == packed(document)
    assert not set(packed(document)) & set("<>&\"'")


def test_case_figure_holds_the_fault_and_every_request(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path, "one")
    figure = figure_of(tmp_path)
    assert figure["t0"] == (T0.timestamp() + 25) * 1000
    assert figure["span"] == [-25, 35]
    assert figure["targets"] == ["ray-replicas-1"]
    assert figure["windows"][0]["planned"] == figure["windows"][0]["verified"] == [0, 25]
    assert len(figure["requests"]["x"]) == len(case.requests)
    assert (figure["x0"], figure["dx"], figure["n"]) == (-25, 1, 60)
    cpu = next(panel for panel in figure["panels"] if panel["metric"] == "cpu_usage")
    services = figure["services"]
    values = {services[index]: line for index, line in cpu["lines"]}
    stored = case.metrics[(case.metrics["metric"] == "cpu_usage") & (case.metrics["service"] == "ray-replicas-1")]
    assert values["ray-replicas-1"] == pytest.approx(stored["value"].tolist(), rel=1e-3)
    assert "→" in cpu["note"]


def test_fault_free_figure_has_no_window_and_no_target(tmp_path: Path) -> None:
    synthetic_case(tmp_path, "quiet", kind=None)
    figure = figure_of(tmp_path)
    assert figure["windows"] == []
    assert figure["targets"] == []
    assert all(panel["note"] == "" for panel in figure["panels"])
