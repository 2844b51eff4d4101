"""The Kubernetes backend: a stack in a namespace of a cluster."""
