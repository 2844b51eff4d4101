"""Metric-based RCA methods."""
