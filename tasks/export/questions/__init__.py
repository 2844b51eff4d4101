"""How each canonical metric is filled: the PromQL asked for it, and what is derived from spans."""
