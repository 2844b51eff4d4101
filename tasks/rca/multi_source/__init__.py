"""Multi-source RCA methods."""
