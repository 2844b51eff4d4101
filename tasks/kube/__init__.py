"""The Kubernetes API and what several packages know of a cluster: addresses, NodeFaults, the map of GPUs."""
