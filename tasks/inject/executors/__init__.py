"""How fault kinds are carried out: one package per backend."""
