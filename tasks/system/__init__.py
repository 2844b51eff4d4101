"""Operating system: locks, durable files, processes, scratch directories."""
