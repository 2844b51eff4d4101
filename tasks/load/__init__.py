"""Stage 2a: open-loop load generation."""
