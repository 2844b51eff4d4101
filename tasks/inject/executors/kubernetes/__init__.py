"""How the Kubernetes backend carries faults out: Chaos Mesh, agents on nodes, and requests to engines."""
