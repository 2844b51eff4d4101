"""Stage 4a: RCA methods, their registry and runner."""
