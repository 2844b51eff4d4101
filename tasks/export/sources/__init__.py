"""Clients of the telemetry servers and readers of telemetry files."""
