"""Scores of rankings and their statistics."""
