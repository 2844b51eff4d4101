from tests.export.conftest import start_prometheus as start_prometheus
