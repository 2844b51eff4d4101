"""A package that a method names: the runner imports it before it starts the clock."""
