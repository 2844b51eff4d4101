"""The local backend: real processes in namespaces and cgroups of this machine."""
