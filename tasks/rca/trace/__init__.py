"""Trace-based RCA methods."""
