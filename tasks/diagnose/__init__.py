"""A live incident: find the change, export the telemetry around it, let methods rank, explain, and go on watching."""
