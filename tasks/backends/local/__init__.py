"""The local backend: real processes in namespaces and cgroups of this machine."""

from tasks.backends.local import backend as backend
