"""The Kubernetes backend: a stack in a namespace of a cluster."""

from tasks.backends.kubernetes import backend as backend
