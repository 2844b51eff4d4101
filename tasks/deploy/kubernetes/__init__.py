"""The stack on a Kubernetes cluster."""
