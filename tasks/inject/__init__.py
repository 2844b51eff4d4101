"""Fault kinds, and carrying them out: guardian, journal, recovery, executors per backend."""
