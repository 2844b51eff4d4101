"""Stage 4b: scores and their statistics."""
