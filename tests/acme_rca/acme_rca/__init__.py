"""A package of somebody else, for tests: a method and a fault kind that entry points offer."""
