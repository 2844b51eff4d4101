from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.span_links import link_spans


def spans(*rows: tuple[str, str, str | None]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["trace_id", "span_id", "parent_span_id"])


def test_a_parent_is_looked_for_in_its_own_trace() -> None:
    linked = link_spans(spans(("t", "1", None), ("u", "2", "1"), ("t", "3", "1"), ("u", "1", "gone")))
    assert linked.parent.tolist() == [-1, 3, 0, -1]
    assert linked.trace.tolist() == [0, 1, 0, 1]
    assert linked.count == 2


def test_a_span_is_not_its_own_parent_and_no_id_is_not_an_id() -> None:
    assert link_spans(spans(("t", "1", "1"), ("t", "2", None), ("t", None, "2"))).parent.tolist() == [-1, -1, 1]


def test_of_spans_with_one_id_the_preferred_is_the_parent_and_else_the_first() -> None:
    table = spans(("t", "1", None), ("t", "1", None), ("t", "2", "1"))
    assert link_spans(table).parent.tolist() == [-1, -1, 0]
    assert link_spans(table, np.array([0.5, 0.1, 0.0])).parent.tolist() == [-1, -1, 1]
    assert link_spans(table, np.array([0.5, 0.5, 0.0])).parent.tolist() == [-1, -1, 0]


def test_no_spans_have_no_links() -> None:
    linked = link_spans(spans())
    assert (linked.trace.tolist(), linked.parent.tolist(), linked.count) == ([], [], 0)
