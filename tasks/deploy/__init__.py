"""Stage 1: bring the stack up and down."""
