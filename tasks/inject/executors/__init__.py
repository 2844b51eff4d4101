"""Executors carry out fault kinds: one package per backend."""
