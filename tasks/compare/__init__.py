"""Compares two campaigns and tests whether one is significantly worse."""
