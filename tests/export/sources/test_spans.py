"""Where the gateway's spans and those of the engines stand among the others of a trace."""

from __future__ import annotations

import pandas as pd
import pytest

from tasks.export.sources.spans import link_gateway


@pytest.mark.parametrize("types", ["object", "string", "str"])
def test_an_engine_is_below_the_gateway_where_no_replica_of_ray_sent_a_span(types: str) -> None:
    spans = pd.DataFrame(
        {
            "trace_id": ["t"] * 3,
            "span_id": ["door", "proxy", "engine"],
            "parent_span_id": ["client", "client", "door"],
            "service": ["nginx-proxy", "ray-head", "ray-replicas-0"],
            "operation": ["POST /v1", "proxy_http_request", "llm_request"],
        }
    ).astype(types)
    spans["start"] = pd.to_datetime([0, 1, 2], unit="s", utc=True)
    assert list(link_gateway(spans, "nginx-proxy")["parent_span_id"]) == ["client", "door", "door"]
