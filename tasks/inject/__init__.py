"""Stage 2b: the fault catalogue and its executors."""
