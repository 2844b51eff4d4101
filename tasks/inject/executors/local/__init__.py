"""How the local backend carries faults out: cgroups, network links and signals of one machine."""
