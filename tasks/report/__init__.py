"""Stage 5: the HTML report."""
