"""Kubernetes: the API client, addresses of clusters, NodeFaults, the map of GPUs."""
