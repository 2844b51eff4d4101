"""Stage 3: telemetry sources -> case."""
