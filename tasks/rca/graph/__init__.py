"""Building blocks of the methods that rank by a causal graph: learning one from metrics, and ranking its nodes."""
