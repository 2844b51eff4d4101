"""Several campaigns as one study: every method scored on all, and a page that a person writes around the tables."""
