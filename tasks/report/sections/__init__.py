"""The sections of the report: each module registers one, with its template and script beside it."""
