"""Recorded campaigns: the only writer of DVC, and what changed between two of them."""
