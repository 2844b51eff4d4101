"""Executors of the local backend: cgroups, network links and signals of one machine."""
