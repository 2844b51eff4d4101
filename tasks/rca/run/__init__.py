"""Running methods: views of cases, pairs, processes, pools, and their confinement."""
