"""Executors of the Kubernetes backend: Chaos Mesh, agents on nodes, pods beside the target."""
