"""Data sets of other people as cases, and our cases in their layout: see docs/datasets.md.

A reader (one module per layout) finds the cases of a directory; ``importing`` writes them. Nothing here imports a later
stage, and nothing of the truth gets into a case id.
"""
