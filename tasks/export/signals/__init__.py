"""Signal exporters: every module here is imported by ``export_case`` and registers itself with ``@exporter``."""
