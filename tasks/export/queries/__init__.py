"""Fills the canonical metrics, by PromQL queries and from spans."""
